//! The functions of a rule file, taken out of the AST.

use std::collections::HashMap;

use rhai::{AST, ASTNode, Position, Stmt};

/// One function of a rule file.
#[derive(Debug)]
pub(crate) struct Function {
    pub(crate) name: String,
    pub(crate) params: Vec<String>,
    pub(crate) body: Vec<Stmt>,
    /// Where its first statement begins.
    pub(crate) at: Position,
}

/// The functions of a file by name and number of parameters.
pub(crate) type Functions = HashMap<(String, usize), Function>;

/// Takes the functions out of an AST.
pub(crate) fn functions(ast: &AST) -> Functions {
    let signatures: Vec<(String, Vec<String>)> = ast
        .iter_functions()
        .map(|f| (f.name.to_string(), f.params.iter().map(|p| p.to_string()).collect()))
        .collect();
    let mut out = Functions::new();
    for (name, params) in signatures {
        // `clone_functions_only_filtered` of rhai 1.27 does not filter into an empty module, so: all, then retain.
        let mut only = ast.clone_functions_only();
        only.retain_functions(|_, _, n, arity| n == name && arity == params.len());
        let mut body: Vec<Stmt> = Vec::new();
        only.walk(&mut |path: &[ASTNode<'_>]| {
            if let [ASTNode::Stmt(s)] = path {
                body.push((*s).clone());
            }
            true
        });
        let at = body.first().map_or(Position::NONE, Stmt::position);
        out.insert((name.clone(), params.len()), Function { name, params, body, at });
    }
    out
}
