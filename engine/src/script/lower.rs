//! Lowers the body of `enter` or `leave` from Rhai's AST to a [`Program`], if it stays in the pure subset: readings of
//! windows, params, `let`, arithmetic, comparison, `&& || !`, `if`, `return`, `min max abs`, and calls of the file's own
//! helper functions that stay in it too. Otherwise it says why not, and where.

use rhai::{ASTFlags, Expr, Position, Stmt};

use super::functions::Functions;
use super::manifest::{Manifest, ParamValue, RESERVED_WINDOWS};
use super::program::{Bin, Program, Prop, fold};
use super::tree::{Node, emit};
use whystall_event::SubjectKind;

/// Why a function was not lowered.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct NotLowered {
    pub(crate) why: String,
    pub(crate) at: Position,
}

type Lowered<T> = Result<T, NotLowered>;

fn no<T>(why: impl Into<String>, at: Position) -> Lowered<T> {
    Err(NotLowered { why: why.into(), at })
}

/// What a name stands for.
#[derive(Debug, Clone, PartialEq)]
enum Bound {
    Windows,
    Params,
    Window(usize),
    Text(String),
    Slot(u16, Ty),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ty {
    Float,
    /// An integer literal or a result of only those; becomes a float where it meets one.
    Int,
    Bool,
}

/// Most nodes a program may have; a tree beyond it is left to the interpreter.
const MAX_NODES: usize = 2048;
/// Each statement holds the stack until those after it are lowered.
const MAX_OPEN: usize = 128;
const MAX_INLINE: usize = 8;

/// Lowers the function called `name(w, p)` for subjects of `kind`.
pub(crate) fn lower(
    name: &str,
    functions: &Functions,
    manifest: &Manifest,
    kind: SubjectKind,
) -> Lowered<Program> {
    let Some(def) = functions.get(&(name.to_string(), 2)) else {
        return no(format!("there is no `{name}(w, p)`"), Position::NONE);
    };
    let mut l =
        Lower { functions, manifest, kind, scope: Vec::new(), slots: 0, nodes: 0, inlined: 0, open: 0 };
    l.scope.push((def.params[0].to_string(), Bound::Windows));
    l.scope.push((def.params[1].to_string(), Bound::Params));
    let (node, ty) = l.sequence(&[&def.body], def.at)?;
    if ty != Ty::Bool {
        return no("it does not end in a condition", Position::NONE);
    }
    let mut out = Program { code: Vec::new(), slots: usize::from(l.slots), depth: 0 };
    let mut depth = 0;
    emit(&node, &mut out, &mut depth);
    Ok(out)
}

struct Lower<'a> {
    functions: &'a Functions,
    manifest: &'a Manifest,
    kind: SubjectKind,
    scope: Vec<(String, Bound)>,
    slots: u16,
    nodes: usize,
    inlined: usize,
    /// Statements that were begun and wait for what follows them.
    open: usize,
}

/// What an expression is.
enum Val {
    Node(Node, Ty),
    Bound(Bound),
}

impl Lower<'_> {
    fn count(&mut self, at: Position) -> Lowered<()> {
        self.nodes += 1;
        if self.nodes > MAX_NODES { no("it is too long", at) } else { Ok(()) }
    }

    /// Statements and what follows them; the last value or the first `return` is the result.
    fn sequence(&mut self, parts: &[&[Stmt]], end: Position) -> Lowered<(Node, Ty)> {
        self.open += 1;
        let result =
            if self.open > MAX_OPEN { no("it is too long", end) } else { self.statements(parts, end) };
        self.open -= 1;
        result
    }

    fn statements(&mut self, parts: &[&[Stmt]], end: Position) -> Lowered<(Node, Ty)> {
        let Some((first, rest)) = parts.split_first() else {
            return no("it ends without a value", end);
        };
        let Some((s, after)) = first.split_first() else { return self.sequence(rest, end) };
        let more = !after.is_empty() || rest.iter().any(|p| !p.is_empty());
        let at = s.position();
        self.count(at)?;
        let mark = self.scope.len();
        let result = match s {
            Stmt::Noop(_) => {
                let mut all = vec![after];
                all.extend_from_slice(rest);
                self.sequence(&all, end)
            }
            Stmt::Return(Some(e), flags, _) if !flags.contains(ASTFlags::BREAK) => self.value(e),
            Stmt::Return(_, flags, _) => {
                no(if flags.contains(ASTFlags::BREAK) { "`throw`" } else { "`return` without a value" }, at)
            }
            Stmt::Var(v, ..) => {
                let bound = match self.expr(&v.1)? {
                    Val::Bound(b) => Err(b),
                    Val::Node(n, ty) => Ok((n, ty)),
                };
                let mut all = vec![after];
                all.extend_from_slice(rest);
                match bound {
                    Err(b) => {
                        self.scope.push((v.0.name.to_string(), b));
                        self.sequence(&all, at)
                    }
                    Ok((n, ty)) => {
                        let slot = self.slot(at)?;
                        self.scope.push((v.0.name.to_string(), Bound::Slot(slot, ty)));
                        let (body, t) = self.sequence(&all, at)?;
                        Ok((Node::Let(slot, n.into(), body.into()), t))
                    }
                }
            }
            Stmt::If(flow, _) => {
                let (cond, ty) = self.value(&flow.expr)?;
                if ty != Ty::Bool {
                    return no("the condition of `if` is no boolean", at);
                }
                let branch = |this: &mut Self, block: &[Stmt]| {
                    let mut all = vec![block];
                    if more {
                        all.push(after);
                        all.extend_from_slice(rest);
                    }
                    let mark = this.scope.len();
                    let r = this.sequence(&all, at);
                    this.scope.truncate(mark);
                    r
                };
                let (a, ta) = branch(self, flow.body.statements())?;
                let (b, tb) = branch(self, flow.branch.statements())?;
                Ok((Node::If(cond.into(), a.into(), b.into()), unify(ta, tb, at)?))
            }
            Stmt::Block(block) => {
                let mut all = vec![block.statements(), after];
                all.extend_from_slice(rest);
                // A name of the block would hide an outer one for what follows.
                if more && block.iter().any(|s| matches!(s, Stmt::Var(..))) {
                    return no("a block with its own variables in the middle", at);
                }
                self.sequence(&all, end)
            }
            Stmt::Expr(e) => self.last_or_checked(e, after, rest, more, at),
            Stmt::FnCall(f, p) => self.last_or_checked(&Expr::FnCall(f.clone(), *p), after, rest, more, at),
            Stmt::Assignment(_) => no("an assignment", at),
            Stmt::While(..) | Stmt::Do(..) | Stmt::For(..) => no("a loop", at),
            Stmt::Switch(..) => no("`switch`", at),
            _ => no("this kind of statement", at),
        };
        self.scope.truncate(mark);
        result
    }

    fn last_or_checked(
        &mut self,
        e: &Expr,
        after: &[Stmt],
        rest: &[&[Stmt]],
        more: bool,
        at: Position,
    ) -> Lowered<(Node, Ty)> {
        if !more {
            return self.value(e);
        }
        // A value that nobody uses still ends the evaluation if it is unknown.
        let val = self.expr(e)?;
        let mut all = vec![after];
        all.extend_from_slice(rest);
        let (body, t) = self.sequence(&all, at)?;
        match val {
            Val::Bound(_) => Ok((body, t)),
            Val::Node(n, _) => Ok((Node::Let(self.slot(at)?, n.into(), body.into()), t)),
        }
    }

    fn slot(&mut self, at: Position) -> Lowered<u16> {
        let s = self.slots;
        self.slots += 1;
        if s >= 256 { no("too many variables", at) } else { Ok(s) }
    }

    fn value(&mut self, e: &Expr) -> Lowered<(Node, Ty)> {
        match self.expr(e)? {
            Val::Node(n, t) => Ok((n, t)),
            Val::Bound(_) => no("a window or text as a value", e.start_position()),
        }
    }

    fn expr(&mut self, e: &Expr) -> Lowered<Val> {
        let at = e.start_position();
        self.count(at)?;
        let node = |n, t| Ok(Val::Node(n, t));
        match e {
            Expr::FloatConstant(x, _) => node(Node::Const(**x), Ty::Float),
            Expr::IntegerConstant(i, _) => node(Node::Const(*i as f64), Ty::Int),
            Expr::BoolConstant(b, _) => node(Node::Const(f64::from(*b)), Ty::Bool),
            Expr::StringConstant(s, _) => Ok(Val::Bound(Bound::Text(s.to_string()))),
            Expr::Variable(v, ..) => match self.scope.iter().rev().find(|(n, _)| n == v.1.as_str()) {
                Some((_, Bound::Slot(i, t))) => node(Node::Slot(*i), *t),
                Some((_, b)) => Ok(Val::Bound(b.clone())),
                None => no(format!("the variable `{}`", v.1), at),
            },
            Expr::And(list, _) | Expr::Or(list, _) => {
                let op = if matches!(e, Expr::And(..)) { Bin::And } else { Bin::Or };
                let mut out: Option<Node> = None;
                // The interpreter goes from the left, so fold to the left.
                for x in list.iter() {
                    let (n, t) = self.value(x)?;
                    if t != Ty::Bool {
                        return no("an operand that is no boolean", x.start_position());
                    }
                    out = Some(match out {
                        None => n,
                        Some(l) => Node::Bin(op, l.into(), n.into()),
                    });
                }
                match out {
                    Some(n) => node(n, Ty::Bool),
                    None => no("an empty condition", at),
                }
            }
            Expr::Stmt(block) => {
                if has_return(block.statements()) {
                    return no("`return` inside an expression", at);
                }
                let (n, t) = self.sequence(&[block.statements()], at)?;
                node(n, t)
            }
            Expr::FnCall(f, _) => self.call(f, at),
            Expr::Dot(b, ..) => self.dot(&b.lhs, &b.rhs, at),
            _ => no("this kind of expression", at),
        }
    }

    fn call(&mut self, f: &rhai::FnCallExpr, at: Position) -> Lowered<Val> {
        let name = f.name.as_str();
        let node = |n, t| Ok(Val::Node(n, t));
        match (name, f.args.len(), f.op_token.is_some()) {
            ("!", 1, _) => {
                let (n, t) = self.value(&f.args[0])?;
                if t != Ty::Bool {
                    return no("`!` of something that is no boolean", at);
                }
                node(Node::Not(n.into()), Ty::Bool)
            }
            ("-", 1, _) => {
                let (n, t) = self.value(&f.args[0])?;
                if t == Ty::Bool {
                    return no("`-` of a boolean", at);
                }
                node(Node::Neg(n.into()), t)
            }
            ("abs", 1, false) => {
                let (n, t) = self.value(&f.args[0])?;
                if t != Ty::Float {
                    return no("`abs` of something that is no floating-point number", at);
                }
                node(Node::Abs(n.into()), t)
            }
            ("min" | "max", 2, false) if !self.functions.contains_key(&(name.to_string(), 2)) => {
                let (a, ta) = self.value(&f.args[0])?;
                let (b, tb) = self.value(&f.args[1])?;
                if ta != Ty::Float || tb != Ty::Float {
                    return no(format!("`{name}` of something other than two floating-point numbers"), at);
                }
                let op = if name == "min" { Bin::Min } else { Bin::Max };
                node(Node::Bin(op, a.into(), b.into()), Ty::Float)
            }
            (_, 2, true) => self.operator(name, &f.args[0], &f.args[1], at),
            _ => self.inline(f, at),
        }
    }

    fn operator(&mut self, name: &str, a: &Expr, b: &Expr, at: Position) -> Lowered<Val> {
        let (a, b) = (self.expr(a)?, self.expr(b)?);
        if let (Val::Bound(Bound::Text(a)), Val::Bound(Bound::Text(b))) = (&a, &b) {
            // Texts are params and literals, so their comparison is known at load.
            return match name {
                "==" => Ok(Val::Node(Node::Const(f64::from(a == b)), Ty::Bool)),
                "!=" => Ok(Val::Node(Node::Const(f64::from(a != b)), Ty::Bool)),
                _ => no(format!("`{name}` of texts"), at),
            };
        }
        let (Val::Node(a, ta), Val::Node(b, tb)) = (a, b) else {
            return no(format!("`{name}` of a window or text"), at);
        };
        let bools = (ta == Ty::Bool, tb == Ty::Bool);
        let ints = ta == Ty::Int && tb == Ty::Int;
        let op = match name {
            "+" => Bin::Add,
            "-" => Bin::Sub,
            "*" => Bin::Mul,
            "/" => Bin::Div,
            ">" => Bin::Gt,
            ">=" => Bin::Ge,
            "<" => Bin::Lt,
            "<=" => Bin::Le,
            "==" => Bin::Eq,
            "!=" => Bin::Ne,
            _ => return no(format!("the operator `{name}`"), at),
        };
        let compares = matches!(op, Bin::Gt | Bin::Ge | Bin::Lt | Bin::Le | Bin::Eq | Bin::Ne);
        let equality = matches!(op, Bin::Eq | Bin::Ne);
        let fits = match bools {
            (true, true) => equality,
            (false, false) => !ints || compares,
            _ => false,
        };
        if !fits {
            return no(format!("`{name}` of these types"), at);
        }
        let ty = if compares { Ty::Bool } else { Ty::Float };
        if let (Node::Const(x), Node::Const(y)) = (&a, &b) {
            return Ok(Val::Node(Node::Const(fold(op, *x, *y)), ty));
        }
        Ok(Val::Node(Node::Bin(op, a.into(), b.into()), ty))
    }

    /// A call of one of the file's own functions, as if its body stood here.
    fn inline(&mut self, f: &rhai::FnCallExpr, at: Position) -> Lowered<Val> {
        let Some(def) = self.functions.get(&(f.name.to_string(), f.args.len())) else {
            return no(format!("a call of `{}`", f.name), at);
        };
        if self.inlined >= MAX_INLINE {
            return no("functions that call functions too deeply", at);
        }
        let mut bound = Vec::new();
        let mut lets = Vec::new();
        for (param, arg) in def.params.iter().zip(f.args.iter()) {
            bound.push((
                param.to_string(),
                match self.expr(arg)? {
                    Val::Bound(b) => b,
                    Val::Node(n, t) => {
                        let slot = self.slot(at)?;
                        lets.push((slot, n));
                        Bound::Slot(slot, t)
                    }
                },
            ));
        }
        let outer = std::mem::replace(&mut self.scope, bound);
        self.inlined += 1;
        let result = self.sequence(&[&def.body], at);
        self.inlined -= 1;
        self.scope = outer;
        let (mut n, t) = result?;
        for (slot, value) in lets.into_iter().rev() {
            n = Node::Let(slot, value.into(), n.into());
        }
        Ok(Val::Node(n, t))
    }

    fn dot(&mut self, lhs: &Expr, rhs: &Expr, at: Position) -> Lowered<Val> {
        // `a.b.c` is parsed as a, then the chain b.c.
        let (first, chain) = match rhs {
            Expr::Dot(b, ..) => (&b.lhs, Some(&b.rhs)),
            other => (other, None),
        };
        let base = match self.expr(lhs)? {
            Val::Bound(b) => b,
            Val::Node(..) => return no("a property or method of a number", at),
        };
        let stepped = self.step(base, first, at)?;
        match (stepped, chain) {
            (v, None) => Ok(v),
            (Val::Bound(b), Some(next)) => match next {
                Expr::Dot(..) => no("a longer chain of properties", at),
                next => self.step(b, next, at),
            },
            (Val::Node(..), Some(_)) => no("a property or method of a number", at),
        }
    }

    fn step(&mut self, base: Bound, member: &Expr, at: Position) -> Lowered<Val> {
        let name = match member {
            Expr::Property(p, _) => p.2.as_str(),
            Expr::MethodCall(f, _) if f.name == "or" && f.args.len() == 1 => {
                let Bound::Window(i) = base else { return no("`or` of something that is no window", at) };
                let (fallback, t) = self.value(&f.args[0])?;
                if t == Ty::Bool {
                    return no("`or` with a boolean", at);
                }
                let read = self.read(i, Prop::Value);
                // The fallback is evaluated before the call, so its unknown is the call's.
                let slot = self.slot(at)?;
                let either = Node::Bin(Bin::OrElse, read.into(), Node::Slot(slot).into());
                return Ok(Val::Node(Node::Let(slot, fallback.into(), either.into()), Ty::Float));
            }
            Expr::MethodCall(f, _) => return no(format!("the method `{}`", f.name), at),
            _ => return no("this kind of access", at),
        };
        match base {
            Bound::Windows => {
                if RESERVED_WINDOWS.contains(&name) {
                    let is = name.strip_prefix("on_") == Some(self.kind.name());
                    return Ok(Val::Node(Node::Const(f64::from(is)), Ty::Bool));
                }
                match self.manifest.windows.iter().position(|w| w.name == name) {
                    Some(i) => Ok(Val::Bound(Bound::Window(i))),
                    None => no(format!("the undeclared window `{name}`"), at),
                }
            }
            Bound::Params => match self.manifest.params.iter().find(|p| p.name == name).map(|p| &p.value) {
                Some(ParamValue::Number(x)) => Ok(Val::Node(Node::Const(*x), Ty::Float)),
                Some(ParamValue::Bool(b)) => Ok(Val::Node(Node::Const(f64::from(*b)), Ty::Bool)),
                Some(ParamValue::Text(s)) => Ok(Val::Bound(Bound::Text(s.clone()))),
                None => no(format!("the undeclared param `{name}`"), at),
            },
            Bound::Window(i) => match Prop::from_name(name) {
                Some(p @ (Prop::Known | Prop::Overdue)) => Ok(Val::Node(self.read(i, p), Ty::Bool)),
                Some(p) => Ok(Val::Node(self.read(i, p), Ty::Float)),
                None => no(format!("the property `{name}`"), at),
            },
            Bound::Text(_) | Bound::Slot(..) => no("a property of a text or number", at),
        }
    }

    fn read(&self, window: usize, prop: Prop) -> Node {
        Node::Read(window as u16, prop, self.manifest.windows[window].shape.scale())
    }
}

fn unify(a: Ty, b: Ty, at: Position) -> Lowered<Ty> {
    if a == b { Ok(a) } else { no("branches of different types", at) }
}

fn has_return(statements: &[Stmt]) -> bool {
    statements.iter().any(|s| match s {
        Stmt::Return(..) => true,
        Stmt::If(f, _) => has_return(f.body.statements()) || has_return(f.branch.statements()),
        Stmt::Block(b) => has_return(b.statements()),
        _ => false,
    })
}
