//! The interpreter as rules get it: no files, no clock, no output, bounded in operations, depth and sizes.

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::BTreeSet;
use std::rc::Rc;

use rhai::packages::{
    ArithmeticPackage, BasicArrayPackage, BasicIteratorPackage, BasicMapPackage, BasicMathPackage,
    BasicStringPackage, LanguageCorePackage, LogicPackage, MoreStringPackage, Package,
};
use rhai::{AST, CallFnOptions, Dynamic, Engine, EvalAltResult, OptimizationLevel, Scope};

use super::conclusion::{self, Builder, Conclusion};
use super::context::{self, Ctx};
use super::reading::{self, Call, ParamsView, Unknown, WindowsView, unknown};
use super::testing;

/// Operations one call of `enter` or `leave` may use.
const JUDGE_OPERATIONS: u64 = 20_000;
/// Operations one call of `verdict` or a test may use.
const CONCLUDE_OPERATIONS: u64 = 200_000;

/// What a condition came to.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Judged {
    True,
    False,
    Unknown,
    /// The call broke a limit or failed; the text says how.
    Failed(String),
}

impl Judged {
    /// From a lane of a lowered program.
    pub(crate) fn lane(x: f64) -> Judged {
        if x.is_nan() {
            Judged::Unknown
        } else if x != 0.0 {
            Judged::True
        } else {
            Judged::False
        }
    }
}

/// Two interpreters with the same functions: one for conditions, where unknown ends the evaluation, and one for
/// conclusions and tests.
pub struct Sandbox {
    conclude: Engine,
    judge: OnceCell<Engine>,
    operations: Rc<Cell<u64>>,
    total: Cell<u64>,
    /// Conclusions begun in the newest call.
    begun: Rc<Cell<u32>>,
    /// Blocks of marked rules that were reached.
    reached: Reached,
}

type Reached = Rc<RefCell<BTreeSet<i64>>>;

impl std::fmt::Debug for Sandbox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Sandbox")
    }
}

impl Default for Sandbox {
    fn default() -> Sandbox {
        Sandbox::new()
    }
}

impl Sandbox {
    /// A sandbox; its second interpreter is made when a rule needs it.
    pub fn new() -> Sandbox {
        let (operations, begun, reached) = (Rc::default(), Rc::default(), Rc::default());
        Sandbox {
            conclude: base(CONCLUDE_OPERATIONS, &operations, &begun, &reached),
            judge: OnceCell::new(),
            operations,
            total: Cell::new(0),
            begun,
            reached,
        }
    }

    pub(crate) fn compile(&self, text: &str) -> Result<AST, rhai::ParseError> {
        self.conclude.compile(text)
    }

    /// Calls `enter` or `leave`.
    pub(crate) fn judge(&self, ast: &AST, name: &str, call: Rc<Call>) -> Judged {
        let engine = self.judge.get_or_init(|| {
            let mut e = base(JUDGE_OPERATIONS, &self.operations, &self.begun, &self.reached);
            strict_arithmetic(&mut e);
            e
        });
        let params = ParamsView(call.manifest.clone());
        let options = CallFnOptions::new().eval_ast(false);
        let result: Result<Dynamic, _> = self.counted(|| {
            engine.call_fn_with_options(options, &mut Scope::new(), ast, name, (WindowsView(call), params))
        });
        match result {
            Ok(d) => match d.as_bool() {
                Ok(true) => Judged::True,
                Ok(false) => Judged::False,
                Err(t) => Judged::Failed(format!("`{name}` returned a {t}, not true or false")),
            },
            Err(e) if is_unknown(&e) => Judged::Unknown,
            Err(e) => Judged::Failed(explain(&e)),
        }
    }

    /// Calls `verdict`.
    pub(crate) fn conclude(&self, ast: &AST, call: Rc<Call>, ctx: Ctx) -> Result<Conclusion, String> {
        let params = ParamsView(call.manifest.clone());
        let options = CallFnOptions::new().eval_ast(false);
        let args = (WindowsView(call), params, ctx);
        let built: Builder = self
            .counted(|| self.conclude.call_fn_with_options(options, &mut Scope::new(), ast, "verdict", args))
            .map_err(|e| explain(&e))?;
        Ok(built.0.borrow().clone())
    }

    /// Runs a test function, which records what it wants into `script`.
    pub(crate) fn record_test(
        &self,
        ast: &AST,
        name: &str,
        script: testing::Script,
    ) -> Result<(), Box<EvalAltResult>> {
        let options = CallFnOptions::new().eval_ast(false);
        let _: Dynamic = self.counted(|| {
            self.conclude.call_fn_with_options(options, &mut Scope::new(), ast, name, (script,))
        })?;
        Ok(())
    }

    fn counted<T>(&self, call: impl FnOnce() -> T) -> T {
        self.operations.set(0);
        self.begun.set(0);
        let result = call();
        self.total.set(self.total.get().saturating_add(self.operations.get()));
        result
    }

    /// The blocks of marked rules that were reached since the last call.
    pub(crate) fn take_reached(&self) -> BTreeSet<i64> {
        self.reached.take()
    }

    /// Operations used by all calls so far.
    pub(crate) fn operations(&self) -> u64 {
        self.total.get()
    }
}

/// An error with the position of the line that failed, for people.
pub(crate) fn explain(e: &EvalAltResult) -> String {
    let inner = match e {
        EvalAltResult::ErrorInFunctionCall(_, _, inner, _) => inner.as_ref(),
        other => other,
    };
    let at = inner.position();
    let what = match inner {
        EvalAltResult::ErrorTooManyOperations(_) => "too many operations (an endless loop?)".to_string(),
        EvalAltResult::ErrorStackOverflow(_) => "functions call each other too deeply".to_string(),
        EvalAltResult::ErrorDataTooLarge(what, _) => format!("{what} too large"),
        other => {
            let mut other = other.unwrap_inner().to_string();
            if let Some(i) = other.find(" (line ") {
                other.truncate(i);
            }
            other
        }
    };
    match at.line() {
        Some(line) => format!("{what} at line {line}, column {}", at.position().unwrap_or(0)),
        None => what,
    }
}

fn is_unknown(e: &EvalAltResult) -> bool {
    match e {
        EvalAltResult::ErrorTerminated(d, _) => d.is::<Unknown>(),
        EvalAltResult::ErrorInFunctionCall(_, _, inner, _) => is_unknown(inner),
        _ => false,
    }
}

fn base(operations: u64, used: &Rc<Cell<u64>>, begun: &Rc<Cell<u32>>, reached: &Reached) -> Engine {
    let mut e = Engine::new_raw();
    // The parser's folding would hide literals' places and types from the checker.
    e.set_optimization_level(OptimizationLevel::None);
    LanguageCorePackage::new().register_into_engine(&mut e);
    ArithmeticPackage::new().register_into_engine(&mut e);
    LogicPackage::new().register_into_engine(&mut e);
    BasicStringPackage::new().register_into_engine(&mut e);
    MoreStringPackage::new().register_into_engine(&mut e);
    BasicIteratorPackage::new().register_into_engine(&mut e);
    BasicMathPackage::new().register_into_engine(&mut e);
    BasicArrayPackage::new().register_into_engine(&mut e);
    BasicMapPackage::new().register_into_engine(&mut e);
    e.set_max_operations(operations)
        .set_max_call_levels(16)
        .set_max_expr_depths(96, 96)
        .set_max_string_size(32 * 1024)
        // Together with the depth of calls these bound what a call can hold: 16 times 64 variables of so much.
        .set_max_array_size(256)
        // All keys of nested maps together: 32 events of some 30 fields.
        .set_max_map_size(1024)
        .set_max_variables(64)
        .set_max_functions(128)
        .set_max_modules(0)
        .set_fail_on_invalid_map_property(true)
        .set_allow_anonymous_fn(false);
    for symbol in ["eval", "print", "debug", "import", "export"] {
        e.disable_symbol(symbol);
    }
    let used = used.clone();
    e.on_progress(move |n| {
        used.set(n);
        None
    });
    let reached = reached.clone();
    // Only marked rules call it; the checker knows no such function.
    e.register_fn("__reach", move |n: i64| {
        reached.borrow_mut().insert(n);
    });
    numbers(&mut e);
    reading::register(&mut e);
    conclusion::register(&mut e, begun);
    context::register(&mut e);
    testing::register(&mut e);
    e
}

/// Comparison, `min` and `max` of floating-point numbers as IEEE 754 and lowered programs have them: Rhai's own compare
/// with a relative tolerance, for which infinity is equal to everything.
fn numbers(e: &mut Engine) {
    e.set_fast_operators(false);
    macro_rules! compare {
        ($($name:literal $op:tt),*) => {$(
            e.register_fn($name, |a: f64, b: f64| a $op b);
            e.register_fn($name, |a: f64, b: i64| a $op b as f64);
            e.register_fn($name, |a: i64, b: f64| (a as f64) $op b);
        )*};
    }
    compare!("<" <, "<=" <=, ">" >, ">=" >=, "==" ==, "!=" !=);
    fn pick(a: f64, b: f64, f: fn(f64, f64) -> f64) -> f64 {
        if a.is_nan() || b.is_nan() { f64::NAN } else { f(a, b) }
    }
    e.register_fn("min", |a: f64, b: f64| pick(a, b, f64::min));
    e.register_fn("max", |a: f64, b: f64| pick(a, b, f64::max));
    e.register_fn("min", |a: f64, b: i64| pick(a, b as f64, f64::min));
    e.register_fn("max", |a: f64, b: i64| pick(a, b as f64, f64::max));
    e.register_fn("min", |a: i64, b: f64| pick(a as f64, b, f64::min));
    e.register_fn("max", |a: i64, b: f64| pick(a as f64, b, f64::max));
    e.register_fn("min", |a: i64, b: i64| a.min(b));
    e.register_fn("max", |a: i64, b: i64| a.max(b));
}

/// Arithmetic that has no answer (0/0, ∞−∞) ends a condition as unknown, as it does in a lowered program.
fn strict_arithmetic(e: &mut Engine) {
    macro_rules! strict {
        ($($name:literal $op:tt),*) => {$(
            e.register_fn($name, |a: f64, b: f64| known(a $op b));
            e.register_fn($name, |a: f64, b: i64| known(a $op b as f64));
            e.register_fn($name, |a: i64, b: f64| known(a as f64 $op b));
        )*};
    }
    strict!("+" +, "-" -, "*" *, "/" /);
}

fn known(x: f64) -> Result<f64, Box<EvalAltResult>> {
    if x.is_nan() { unknown() } else { Ok(x) }
}
