//! The command line: names, flags and their help. Definitions only; what they do stands in `commands/`.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// Says why a Linux host stalled.
///
/// whystall watches the kernel's own figures, judges them with rules, and when the host stalls it says who suffers, who
/// did it, by which chain of causes, what it was not, and which command helps.
///
/// Exit status: 0 fine, 1 problems found (check, test, doctor), 2 wrong usage or config.
#[derive(Debug, Parser)]
#[command(name = "whystall", version, arg_required_else_help = true, max_term_width = 100)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Watch this host and print verdicts.
    ///
    /// Verdicts go to standard output and everything else to standard error. It works without privileges and without a
    /// config, and says what it cannot see. SIGTERM and SIGINT end it with status 0.
    Run(Run),
    /// Record what the collectors see into a file, for `replay`.
    ///
    /// The file is compact and safe against crashes: one that breaks off replays up to there. A name that ends in
    /// .jsonl gives JSON lines instead. Recordings hold names of processes, control groups and kernel messages.
    Record(Record),
    /// Judge a recording with the rules as they are now.
    ///
    /// Runs as fast as the file can be read, through the same code as `run`, and prints the verdicts.
    Replay(Replay),
    /// Say which value of a rule's param would have given how many findings a day.
    ///
    /// Judges a recording once with each value, all in one pass.
    Tune(Tune),
    /// Check rule files, and configs, and report all problems.
    ///
    /// Without PATH: the built-in rules, the default config and the rules in the directories it names. A PATH is a rule
    /// file, a directory of them, or a config (.toml). Status 1 if there is an error, 0 if there are only warnings.
    Check(Check),
    /// Run the tests inside rule files.
    ///
    /// Each rule's `test_…` functions feed it series of values under a virtual clock and say what must fire and clear.
    /// Status 1 if a test fails or a file cannot be loaded.
    Test(Test),
    /// List the fields that rules can read, with live values.
    ///
    /// Starts the collectors for about a second. Counters are shown as rates. Only one subject's value is shown.
    Fields(Fields),
    /// List, show and begin rules.
    Rules(Rules),
    /// Explain an error code, a rule, a cause or an incident.
    ///
    /// CODE is printed with each problem that `check` finds, such as R012. Incidents are those that `run` kept.
    Explain(Explain),
    /// List the incidents that `run` kept.
    ///
    /// Works beside a running daemon. Incidents that are open are always listed.
    Incidents(Incidents),
    /// Try a receiver, look at what waits to be delivered, and try it again.
    Notify(Notify),
    /// Keep silent about some incidents for a while.
    ///
    /// A running daemon heeds it within a second or two. Incidents are kept all the same; those that outlast the
    /// silence are told then, and what was told before is told when it ends.
    Silence(Silence),
    /// Say what works on this host, and what to do about the rest.
    ///
    /// Makes one pass of each collector and looks at what each built-in rule needs. Status 1 if something fails that
    /// should work here: a collector whose pass fails, a built-in rule that does not load, or something that the config
    /// asks for and this host cannot do. What a kernel or a user merely lacks is reported and is no problem.
    Doctor(Doctor),
}

/// `run`
#[derive(Debug, Args)]
pub struct Run {
    /// The config; without it /etc/whystall/whystall.toml if that exists.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub rules: RuleArgs,
    /// How verdicts are printed: for people, or as one JSON object a line.
    #[arg(long, value_enum, default_value_t)]
    pub output: Output,
    /// End after this time, such as 30s or 5m.
    #[arg(long = "for", value_name = "TIME", value_parser = duration)]
    pub duration: Option<Duration>,
}

/// Which rules a run or replay uses.
#[derive(Debug, Args)]
pub struct RuleArgs {
    /// Also load the rules (*.rhai) in this directory and below; may be given several times. A rule with the id of a
    /// built-in one replaces it.
    #[arg(long, value_name = "DIR")]
    pub rules: Vec<PathBuf>,
    /// Leave the built-in rules out.
    #[arg(long)]
    pub no_builtin_rules: bool,
}

/// `record`
#[derive(Debug, Args)]
pub struct Record {
    /// The file to write; one that exists is overwritten.
    #[arg(short = 'o', long = "output", value_name = "FILE")]
    pub output: PathBuf,
    /// End after this time, such as 60s; without it, record until SIGINT or SIGTERM.
    #[arg(long = "for", value_name = "TIME", value_parser = duration)]
    pub duration: Option<Duration>,
    /// The config, for the collectors' settings; without it /etc/whystall/whystall.toml if that exists.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

/// `replay`
#[derive(Debug, Args)]
pub struct Replay {
    /// The recording; `-` reads JSON lines, or a recording, from standard input.
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub rules: RuleArgs,
    /// How verdicts are printed: for people, or as one JSON object a line.
    #[arg(long, value_enum, default_value_t)]
    pub output: Output,
    /// Instead of verdicts, print what would fire more or less often if the rules in DIR were added (or replaced those
    /// with the same id).
    #[arg(long, value_name = "DIR")]
    pub diff: Option<PathBuf>,
    /// Apply a config's settings of rules; without it none is read, so that a replay is the same everywhere.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

/// `tune`
#[derive(Debug, Args)]
pub struct Tune {
    /// The recording; `-` reads JSON lines, or a recording, from standard input.
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// The rule to tune.
    #[arg(long, value_name = "ID")]
    pub rule: String,
    /// The param to vary; may be left out if the rule has only one.
    #[arg(long, value_name = "NAME")]
    pub param: Option<String>,
    /// The values to try; without any, multiples of the param's value.
    #[arg(long, value_name = "NUMBER", value_delimiter = ',', allow_negative_numbers = true)]
    pub values: Vec<f64>,
    /// Try values from here …
    #[arg(long, value_name = "NUMBER", allow_negative_numbers = true)]
    pub from: Option<f64>,
    /// … to here.
    #[arg(long, value_name = "NUMBER", allow_negative_numbers = true)]
    pub to: Option<f64>,
    /// How many values from `--from` to `--to`.
    #[arg(long, value_name = "N", default_value_t = 10)]
    pub steps: u32,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub rules: RuleArgs,
    /// How the result is printed.
    #[arg(long, value_enum, default_value_t)]
    pub output: Output,
    /// Apply a config's settings of rules; without it none is read.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

/// `check`
#[derive(Debug, Args)]
pub struct Check {
    /// Rule files, directories of them, or configs (.toml).
    #[arg(value_name = "PATH")]
    pub paths: Vec<PathBuf>,
    /// For people, JSON for editors, or SARIF for code scanning.
    #[arg(long, value_enum, default_value_t)]
    pub format: CheckFormat,
    /// Also show notes, such as what runs in the interpreter and why.
    #[arg(short, long)]
    pub verbose: bool,
}

/// `test`
#[derive(Debug, Args)]
pub struct Test {
    /// Rule files or directories of them; without any, the built-in rules.
    #[arg(value_name = "PATH")]
    pub paths: Vec<PathBuf>,
    /// For people, as JSON, or as JUnit XML.
    #[arg(long, value_enum, default_value_t)]
    pub format: TestFormat,
    /// Also tell which branches of a rule, and which kinds of tests, are missing.
    #[arg(long)]
    pub coverage: bool,
}

/// `fields`
#[derive(Debug, Args)]
pub struct Fields {
    /// Only fields whose name contains this, or matches it if it has `*` or `?`.
    #[arg(value_name = "PATTERN")]
    pub pattern: Option<String>,
}

/// `rules`
#[derive(Debug, Args)]
pub struct Rules {
    /// What to do with rules.
    #[command(subcommand)]
    pub what: RulesCommand,
}

/// What `rules` can do.
#[derive(Debug, Subcommand)]
pub enum RulesCommand {
    /// List the rules that `run` would load, and whether they work here.
    List,
    /// Show a rule's page, params, windows and causes.
    Show {
        /// The rule's id.
        #[arg(value_name = "ID")]
        id: String,
    },
    /// Print what rules can call and read as a definition file for editors with a Rhai language server.
    ///
    /// Save it as `whystall.d.rhai` beside the rules.
    Definitions,
    /// Print the reference in Markdown: streams, calculations, functions, codes and commands.
    Reference,
    /// Write a new rule that passes `check` and `test`, to begin from.
    ///
    /// The file is AREA/NAME.rhai if there is a directory AREA here, else NAME.rhai. Nothing is overwritten.
    New {
        /// The rule's id, AREA.NAME in lower case, such as net.retransmits.
        #[arg(value_name = "ID")]
        id: String,
    },
}

/// `explain`
#[derive(Debug, Args)]
pub struct Explain {
    /// An error code (R012), a rule's id, a cause's id, or an incident's id.
    #[arg(value_name = "CODE|ID")]
    pub what: String,
}

/// `incidents`
#[derive(Debug, Args)]
pub struct Incidents {
    /// How far back to look, such as 1h or 7d.
    #[arg(long, value_name = "TIME", value_parser = duration, default_value = "24h")]
    pub since: Duration,
    /// For people, or each incident's newest verdict as one JSON object a line.
    #[arg(long, value_enum, default_value_t)]
    pub output: Output,
}

/// `notify`
#[derive(Debug, Args)]
pub struct Notify {
    /// What to do.
    #[command(subcommand)]
    pub what: NotifyCommand,
}

/// What `notify` can do.
#[derive(Debug, Subcommand)]
pub enum NotifyCommand {
    /// Send a test notification to a receiver of the config, once, and say what came of it.
    Test {
        /// The receiver's name.
        #[arg(value_name = "RECEIVER")]
        receiver: String,
        /// The config; without it /etc/whystall/whystall.toml.
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
    },
    /// What waits to be delivered, and what was given up.
    Outbox {
        /// What to do with it.
        #[command(subcommand)]
        what: OutboxCommand,
    },
}

/// What `notify outbox` can do.
#[derive(Debug, Subcommand)]
pub enum OutboxCommand {
    /// List it. Status 1 if something was given up.
    List {
        /// For people, or as one JSON object a line.
        #[arg(long, value_enum, default_value_t)]
        output: Output,
    },
    /// Try it again now, also what was given up. Status 1 if there is no such thing.
    Retry {
        /// A receiver's name, or an id that `list` shows; without it everything.
        #[arg(value_name = "RECEIVER|ID")]
        which: Option<String>,
    },
}

/// `silence`
#[derive(Debug, Args)]
pub struct Silence {
    /// What to do.
    #[command(subcommand)]
    pub what: SilenceCommand,
}

/// What `silence` can do.
#[derive(Debug, Subcommand)]
pub enum SilenceCommand {
    /// Add a silence and print its id.
    Add {
        /// LABEL=PATTERN; all must match. Labels are those of routes: severity, rule, cause, tag, subject, workload,
        /// namespace, pod, container, unit, host. `*` stands for any text, `?` for one character.
        #[arg(value_name = "LABEL=PATTERN", required = true)]
        matchers: Vec<String>,
        /// For how long, such as 2h.
        #[arg(long = "for", value_name = "TIME", value_parser = duration, default_value = "1h")]
        duration: Duration,
        /// Why.
        #[arg(long, value_name = "TEXT", default_value = "")]
        reason: String,
    },
    /// List the silences that hold.
    List {
        /// Also those that are over.
        #[arg(long)]
        all: bool,
        /// For people, or as one JSON object a line.
        #[arg(long, value_enum, default_value_t)]
        output: Output,
    },
    /// End a silence now. Status 1 if there is none that holds.
    Expire {
        /// Its id.
        #[arg(value_name = "ID")]
        id: String,
    },
}

/// `doctor`
#[derive(Debug, Args)]
pub struct Doctor {
    /// For people, or as one JSON object.
    #[arg(long, value_enum, default_value_t)]
    pub output: Output,
}

/// For people or for programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum Output {
    /// For people.
    #[default]
    Text,
    /// For programs.
    Json,
}

/// How problems of rules are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum CheckFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object.
    Json,
    /// SARIF 2.1.0.
    Sarif,
}

/// How test results are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum TestFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object.
    Json,
    /// JUnit XML, as CI systems read it.
    Junit,
}

fn duration(s: &str) -> Result<Duration, String> {
    whystall_event::parse_duration(s).map(Duration::from_nanos)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn definitions_are_sound() {
        super::Cli::command().debug_assert();
    }
}
