//! The stable codes of diagnostics about rules, each with the page that `whystall explain CODE` shows.

use super::diag::Level;

macro_rules! codes {
    ($($id:ident $name:literal $level:ident $title:literal $page:literal;)*) => {
        /// A kind of problem in a rule file.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        #[allow(missing_docs, reason = "each has its title and page in the table")]
        pub enum Code { $($id,)* }

        impl Code {
            /// Every code, in order.
            pub const ALL: &[Code] = &[$(Code::$id,)*];
            /// `R` and three digits; never reused for another meaning.
            pub const fn name(self) -> &'static str { match self { $(Code::$id => $name,)* } }
            /// Whether it keeps the rule from loading.
            pub const fn level(self) -> Level { match self { $(Code::$id => Level::$level,)* } }
            /// One line.
            pub const fn title(self) -> &'static str { match self { $(Code::$id => $title,)* } }
            /// What it means and what to do.
            pub const fn page(self) -> &'static str { match self { $(Code::$id => $page,)* } }
        }
    };
}

codes! {
    Syntax "R001" Error "the file is not valid Rhai"
        "The parser stopped here; it stops at the first mistake, so there may be more behind it. Look for a missing `;`, \
         `}` or `)` just before the place. Words such as `default with is use match case shared thread sync go nil null` \
         are reserved and cannot be names of keys, variables or functions.";
    NoRule "R002" Error "there is no `const RULE = #{…}`"
        "A rule file declares itself in a literal map: `const RULE = #{ id: \"area.name\", api: 1, … };`. It is read \
         without running the script, so it must stand at the top level and be written out.";
    NotLiteral "R003" Error "RULE must be a literal"
        "Everything inside RULE is read without running the script, so it can only hold numbers, strings, true, false, \
         arrays and maps. Move calculations into `enter`.";
    UnknownKey "R004" Error "a key that RULE does not have"
        "Unknown keys are errors because a misspelt key would otherwise be ignored in silence.";
    MissingKey "R005" Error "a key that RULE needs is missing"
        "`id`, `api`, `severity`, `subject` and `windows` are required; a window needs `of`, `calc` and `over`; a param \
         needs `value` and `help`.";
    BadValue "R006" Error "a value of the wrong type or out of its bounds"
        "The message says what is expected at this place.";
    UnknownField "R007" Error "no stream has this field"
        "A window reads one field of one stream, written `stream.field`. `whystall fields` lists them all. A stream of \
         your own (an exec collector) is declared in the rule with `streams: #{ NAME: #{ FIELD: #{ kind: \"gauge\" } } }` \
         so that the rule can be checked anywhere.";
    BadCalc "R008" Error "this calculation does not fit the field"
        "Counters take last, rate, delta, share (time only), ewma and baseline. Sampled gauges take last, mean, min, max, \
         delta, p50, p90, p99, ewma and baseline. Durations of things that happened take count, sum, mean, min, max, \
         share, rate, the percentiles, ewma and baseline. Texts take count and rate.";
    BadSubject "R009" Error "the field is not about the rule's subject"
        "A window reads the rule's own subject unless it says otherwise. Use `at: \"host\"`, `at: \"parent\"` or \
         `across: \"cgroup\"` (or another kind) to look elsewhere.";
    NoEnter "R010" Error "the function `enter(w, p)` is missing"
        "`enter` decides when the rule fires: it gets the windows and the params and returns true or false.";
    BadFunction "R011" Error "a function with the wrong name or parameters"
        "A rule may define `enter(w, p)`, `leave(w, p)`, `verdict(w, p, ctx)`, tests `test_NAME(t)` and helper functions \
         that these call.";
    UnknownWindow "R012" Error "this window is not declared"
        "`w.NAME` reads a window of RULE's `windows`. Unknown names are an error because Rhai would only find out when the \
         line runs.";
    UnknownParam "R013" Error "this param is not declared"
        "`p.NAME` reads a param of RULE's `params`.";
    UnknownProperty "R014" Error "a window has no such property"
        "A window's value is read with its unit: `.value` in the unit that evidence shows, `.ms .s .us .ns` for times, \
         `.pct` for shares, `.kib .mib .gib` for bytes, `.sigma .dev .mean` for baselines, `.known` and `.or(x)` for \
         windows that may be unknown, `.text` for people.";
    UnknownFunction "R015" Error "no such function"
        "Rhai compiles calls of functions that do not exist and fails when the line runs; so they are found here.";
    TypeMismatch "R016" Error "these types cannot be combined"
        "Rhai compares unlike types without an error and answers false; so it is an error here. Compare a number with a \
         number: `w.stall.ms > p.stall_ms`, not `w.stall > p.stall_ms`.";
    IntegerDivision "R017" Error "division of two integers drops the fraction"
        "`1 / 2` is 0 in Rhai. Write `1.0 / 2.0`.";
    UnknownVariable "R018" Error "no such variable"
        "Functions see only their parameters, their own `let`s and nothing else, not even other constants of the file.";
    NotBool "R019" Error "the function must return true or false"
        "`enter` and `leave` end with a condition. A function whose last statement is a `let` or a loop returns nothing.";
    UnknownCollector "R020" Error "no such collector or stream"
        "`needs` and `wants` name collectors or streams: a rule whose `needs` are missing is not run on this host and says \
         so; `wants` may be missing, their windows are then unknown.";
    UnknownRule "R021" Warning "`explains` names a rule that is not loaded"
        "The edge is ignored until a rule of that id is loaded.";
    UnusedWindow "R022" Warning "a window that no function reads"
        "It costs memory for each subject and does nothing. Remove it, or use it as evidence.";
    UnusedParam "R023" Warning "a param that no function reads"
        "Operators would tune it in vain. Remove it or use it.";
    LeaveAboveEnter "R024" Warning "the rule leaves where it enters"
        "When `leave` is true together with `enter`, the finding flaps. Leave lower than you enter, for example at a \
         third of the threshold.";
    ShortWindow "R025" Warning "the window is shorter than two intervals of its collector"
        "A rate needs two readings; with a shorter window it is unknown most of the time.";
    NoTest "R026" Warning "the rule has no test"
        "Add `fn test_NAME(t)` with `t.series(…)` and `t.at(…).expect(…)`; `whystall test` runs it with a virtual clock.";
    NoResolveTest "R027" Warning "no test sees the rule resolve"
        "A rule that never clears is worse than none. Add `t.at(…).expect(\"resolved\")`.";
    NotHere "R028" Warning "this host lacks what the rule reads"
        "The rule is fine but cannot work on this host; `whystall doctor` says why.";
    NotLowered "R029" Note "the function runs in the interpreter"
        "`enter` and `leave` run hundreds of times faster when they use only window readings, params, `let`, arithmetic, \
         comparison, `&& || !`, `if` and `return`. What does not fit runs in Rhai, behind the rule's `wake` window and \
         within a CPU budget.";
    NoWake "R030" Warning "an interpreted rule without `wake`"
        "Without `wake` the interpreter runs for each subject at each tick. Name the window that is zero when nothing is \
         wrong.";
    Forbidden "R031" Error "this is switched off in rules"
        "Rules can neither load other files, nor evaluate text as code, nor print, nor capture closures; they get windows \
         and return a conclusion.";
    DuplicateId "R032" Error "two rules with one id"
        "Each id stands for one rule. A file of your own with the id of a built-in rule replaces the built-in one; two \
         files of your own cannot share an id.";
    TestSyntax "R033" Error "a test that cannot be understood"
        "The series notation is promtool's: `5` one value, `1x3` a value and three repetitions, `0+10x5` a start, a step \
         and the number of steps, `_` no value, `_x4` none for four ticks.";
    NoDoc "R034" Warning "the file has no page"
        "The `//!` lines at the top are the rule's page: what it detects, why it matters, what to do.";
    UnknownCause "R035" Warning "a cause that no test expects"
        "Add a test that ends in `.cause(\"…\")`.";
    Import "R036" Error "an import that cannot be followed"
        "Rules share functions and constants through libraries: files of constants and functions in a directory `lib` of the \
         rules' directory. `import \"lib/NAME\" as NAME;` on a line of its own makes them `NAME::function(…)` and \
         `NAME::CONSTANT`, the latter also inside RULE.";
}

/// The code with this name, such as `R012`.
pub fn by_name(name: &str) -> Option<Code> {
    Code::ALL.iter().copied().find(|c| c.name().eq_ignore_ascii_case(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_in_order() {
        for (i, c) in Code::ALL.iter().enumerate() {
            assert_eq!(c.name(), format!("R{:03}", i + 1));
            assert_eq!(by_name(&c.name().to_lowercase()), Some(*c));
        }
    }
}
