//! The tree a condition is lowered to, and its operations for the stack program.

use super::program::{Bin, Op, Program, Prop};

/// A pure expression tree; booleans are 0 and 1.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Node {
    Const(f64),
    Read(u16, Prop, f64),
    Slot(u16),
    Not(Box<Node>),
    Neg(Box<Node>),
    Abs(Box<Node>),
    Bin(Bin, Box<Node>, Box<Node>),
    If(Box<Node>, Box<Node>, Box<Node>),
    Let(u16, Box<Node>, Box<Node>),
}

/// Appends the operations that leave `n`'s value on the stack.
pub(crate) fn emit(n: &Node, out: &mut Program, depth: &mut usize) {
    let push = |out: &mut Program, depth: &mut usize, op: Op| {
        out.code.push(op);
        *depth += 1;
        out.depth = out.depth.max(*depth);
    };
    match n {
        Node::Const(x) => push(out, depth, Op::Const(*x)),
        Node::Read(w, p, s) => push(out, depth, Op::Read { window: *w, prop: *p, scale: *s }),
        Node::Slot(i) => push(out, depth, Op::Slot(*i)),
        Node::Not(a) => {
            emit(a, out, depth);
            out.code.push(Op::Not);
        }
        Node::Neg(a) => {
            emit(a, out, depth);
            out.code.push(Op::Neg);
        }
        Node::Abs(a) => {
            emit(a, out, depth);
            out.code.push(Op::Abs);
        }
        Node::Bin(op, a, b) => {
            emit(a, out, depth);
            if let Node::Const(c) = **b {
                out.code.push(Op::BinConst(*op, c));
                return;
            }
            emit(b, out, depth);
            out.code.push(Op::Bin(*op));
            *depth -= 1;
        }
        Node::If(c, a, b) => {
            emit(c, out, depth);
            emit(a, out, depth);
            emit(b, out, depth);
            out.code.push(Op::Select);
            *depth -= 2;
        }
        Node::Let(slot, v, body) => {
            emit(v, out, depth);
            out.code.push(Op::Set(*slot));
            *depth -= 1;
            emit(body, out, depth);
            out.code.push(Op::MaskBy(*slot));
        }
    }
}
