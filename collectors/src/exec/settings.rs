//! The table of an exec collector: what it may hold, checked, with suggestions. Starts and opens nothing.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use toml::Value;
use whystall_event::{
    Field, FieldKind, MAX_FIELDS, Mode, Stream, SubjectKind, Unit, format_duration, parse_duration, text,
};

use crate::{Roots, Settings, Unavailable};

/// The keys of a table `[collectors.exec.NAME]`.
pub const KEYS: &[&str] = &[
    "command",
    "interval",
    "timeout",
    "env",
    "max_line",
    "max_lines_per_s",
    "fields",
    "mode",
    "subjects",
    "help",
    "streams",
];
/// The keys of a table `[collectors.exec.NAME.streams.X]`, and of those that declare the stream `NAME`.
const STREAM_KEYS: &[&str] = &["fields", "mode", "subjects", "help"];
const FIELD_KEYS: &[&str] = &["kind", "unit", "help"];

/// Where programs are looked for.
pub(super) const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);
const SHORTEST_INTERVAL_NS: u64 = 100 * whystall_event::MS;

/// How a program is run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Config {
    pub(super) command: Vec<String>,
    /// Absent: it runs for good.
    pub(super) interval_ns: Option<u64>,
    pub(super) timeout: Duration,
    pub(super) env: Vec<(String, String)>,
    pub(super) max_line: usize,
    pub(super) max_lines_per_s: u32,
}

/// Reads the table of the collector `name`: how to run it, and the streams that it declares.
pub(super) fn read(
    name: &str,
    settings: &Settings,
    roots: &Roots,
) -> Result<(Config, Vec<Arc<Stream>>), Unavailable> {
    let at = Place(format!("collectors.exec.{}", text::escape(name)));
    if !is_name(name) {
        return Err(
            at.wrong("the name must be of lower-case letters, digits and `_`, and begin with a letter")
        );
    }
    let taken = |s: &str| s == name || s.strip_prefix(name).is_some_and(|rest| rest.starts_with('.'));
    if name == "self" || crate::ALL.iter().any(|c| c.name == name || c.streams.iter().any(|s| taken(&s.name)))
    {
        return Err(at.wrong("a built-in collector has this name or emits a stream of it: choose another"));
    }
    at.only(settings, KEYS)?;
    let command = match settings.get("command") {
        Some(v) => at.strings("command", v)?,
        None => return Err(at.wrong("`command` is missing: command = [\"/path/to/program\", \"argument\"]")),
    };
    match command.first() {
        None => return Err(at.wrong("`command` is empty")),
        Some(p) if p.is_empty() => return Err(at.wrong("`command` names no program")),
        Some(p) if p.contains('/') && !p.starts_with('/') => {
            return Err(at.wrong("`command` must begin with a full path or a bare name, not a relative path"));
        }
        Some(_) => {}
    }
    let interval_ns = settings.get("interval").map(|v| at.duration("interval", v)).transpose()?;
    if interval_ns.is_some_and(|ns| ns < SHORTEST_INTERVAL_NS) {
        return Err(at.wrong(format!("`interval` is under {}", format_duration(SHORTEST_INTERVAL_NS))));
    }
    let timeout = settings.get("timeout").map(|v| at.duration("timeout", v)).transpose()?;
    if timeout.is_some() && interval_ns.is_none() {
        return Err(at.wrong("`timeout` needs an `interval`: without one the program runs for good"));
    }
    if timeout == Some(0) {
        return Err(at.wrong("`timeout` is 0"));
    }
    let mut env = vec![
        ("WHYSTALL_COLLECTOR".to_string(), name.to_string()),
        ("WHYSTALL_PROC".to_string(), roots.proc.display().to_string()),
        ("WHYSTALL_SYS".to_string(), roots.sys.display().to_string()),
    ];
    if let Some(v) = settings.get("env") {
        for (key, value) in at.table("env", v)? {
            if key.is_empty() || key.contains(['=', '\0']) {
                return Err(at.wrong(format!("`env` has the impossible name `{}`", text::escape(key))));
            }
            env.push((key.clone(), at.string(&format!("env.{}", text::escape(key)), value)?));
        }
    }
    let config = Config {
        command,
        interval_ns,
        timeout: timeout.map_or(DEFAULT_TIMEOUT, Duration::from_nanos),
        env,
        max_line: at.number(settings, "max_line", 64 << 10, 64..=(16 << 20))? as usize,
        max_lines_per_s: at.number(settings, "max_lines_per_s", 1000, 1..=1_000_000)? as u32,
    };
    Ok((config, streams(name, settings, &at)?))
}

fn streams(name: &str, settings: &Settings, at: &Place) -> Result<Vec<Arc<Stream>>, Unavailable> {
    let mut all = Vec::new();
    if settings.contains_key("fields") {
        all.push(Arc::new(stream(name.to_string(), settings, at)?));
    } else if let Some(key) = STREAM_KEYS.iter().find(|k| settings.contains_key(**k)) {
        return Err(at.wrong(format!("`{key}` needs `fields`: without, the first line declares all")));
    }
    if let Some(v) = settings.get("streams") {
        for (part, v) in at.table("streams", v)? {
            let at = Place(format!("{}.streams.{}", at.0, text::escape(part)));
            if !is_name(part) {
                return Err(at.wrong("the name must be of lower-case letters, digits and `_`"));
            }
            let table = at.table("streams", v)?;
            at.only(table, STREAM_KEYS)?;
            if !table.contains_key("fields") {
                return Err(at.wrong("`fields` is missing"));
            }
            all.push(Arc::new(stream(format!("{name}.{part}"), table, &at)?));
        }
    }
    Ok(all)
}

fn stream(name: String, table: &Settings, at: &Place) -> Result<Stream, Unavailable> {
    let help = table.get("help").map(|v| at.string("help", v)).transpose()?;
    let mode = match table.get("mode").map(|v| at.string("mode", v)).transpose()?.as_deref() {
        None | Some("sampled") => Mode::Sampled,
        Some("occurrences") => Mode::Occurrences,
        Some(_) => return Err(at.wrong("`mode` must be \"sampled\" or \"occurrences\"")),
    };
    let mut subjects = Vec::new();
    match table.get("subjects") {
        None => subjects.push(SubjectKind::Host),
        Some(v) => {
            for kind in at.strings("subjects", v)? {
                let known = SubjectKind::ALL.map(SubjectKind::name);
                let kind =
                    SubjectKind::from_name(&kind).ok_or_else(|| at.unknown("`subjects`", &kind, &known))?;
                subjects.push(kind);
            }
        }
    }
    if subjects.is_empty() {
        return Err(at.wrong("`subjects` is empty"));
    }
    let mut fields = Vec::new();
    if let Some(v) = table.get("fields") {
        for (field, v) in at.table("fields", v)? {
            let at = Place(format!("{}.fields.{}", at.0, text::escape(field)));
            fields.push(self::field(field, at.table("fields", v)?, mode, &at)?);
        }
    }
    if fields.is_empty() || fields.len() > MAX_FIELDS {
        return Err(at.wrong(format!("`fields` must have 1 to {MAX_FIELDS} entries")));
    }
    Ok(Stream {
        name: name.into(),
        help: help.unwrap_or_else(|| "declared in the settings".into()).into(),
        mode,
        subjects: Cow::Owned(subjects),
        fields: Cow::Owned(fields),
    })
}

fn field(name: &str, table: &Settings, mode: Mode, at: &Place) -> Result<Field, Unavailable> {
    if !is_name(name) {
        return Err(
            at.wrong("the name must be of lower-case letters, digits and `_`, and begin with a letter")
        );
    }
    at.only(table, FIELD_KEYS)?;
    let text_of = |key: &str| table.get(key).map(|v| at.string(key, v)).transpose();
    let kind = match text_of("kind")?.as_deref() {
        Some("gauge") | None => FieldKind::Gauge,
        Some("counter") => FieldKind::Counter,
        Some("duration") => FieldKind::Duration,
        Some("text") => FieldKind::Text,
        Some(k) => return Err(at.unknown("`kind`", k, &["gauge", "counter", "duration", "text"])),
    };
    if kind == FieldKind::Duration && mode == Mode::Sampled {
        return Err(at.wrong("a duration belongs to things that happen: set mode = \"occurrences\", or kind = \"gauge\" with unit = \"time\""));
    }
    let unit = match (kind, text_of("unit")?.as_deref()) {
        (FieldKind::Duration, None | Some("time")) => Unit::Time,
        (FieldKind::Text, None | Some("none")) | (FieldKind::Gauge, Some("none")) => Unit::None,
        (FieldKind::Duration, _) => return Err(at.wrong("the unit of a duration is time")),
        (FieldKind::Text, _) => return Err(at.wrong("a text has no unit")),
        (_, None | Some("count")) => Unit::Count,
        (_, Some("bytes")) => Unit::Bytes,
        (_, Some("pages")) => Unit::Pages,
        (_, Some("time")) => Unit::Time,
        (_, Some("ratio")) => Unit::Ratio,
        (_, Some(u)) => {
            return Err(at.unknown("`unit`", u, &["count", "bytes", "pages", "time", "ratio", "none"]));
        }
    };
    let help = text_of("help")?.unwrap_or_default();
    Ok(Field { name: name.to_string().into(), kind, unit, help: help.into() })
}

/// Lower-case letters, digits and `_`, beginning with a letter.
pub(super) fn is_name(s: &str) -> bool {
    s.len() <= 64
        && s.starts_with(|c: char| c.is_ascii_lowercase())
        && s.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
}

/// Where in the config something is wrong.
struct Place(String);

impl Place {
    fn wrong(&self, what: impl AsRef<str>) -> Unavailable {
        Unavailable::settings(format!("[{}]: {}", self.0, what.as_ref()))
    }

    fn unknown(&self, what: &str, given: &str, known: &[&str]) -> Unavailable {
        let hint = match text::did_you_mean(given, known.iter().copied()) {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("it can be {}", known.join(", ")),
        };
        self.wrong(format!("{what} cannot be `{}`: {hint}", text::escape(given)))
    }

    fn only(&self, table: &Settings, known: &[&str]) -> Result<(), Unavailable> {
        match table.keys().find(|k| !known.contains(&k.as_str())) {
            Some(key) => Err(self.unknown("a key", key, known)),
            None => Ok(()),
        }
    }

    fn string(&self, key: &str, value: &Value) -> Result<String, Unavailable> {
        match value.as_str() {
            Some(s) if !s.contains('\0') => Ok(s.to_string()),
            _ => Err(self.wrong(format!("`{key}` must be a string"))),
        }
    }

    fn strings(&self, key: &str, value: &Value) -> Result<Vec<String>, Unavailable> {
        let list =
            value.as_array().ok_or_else(|| self.wrong(format!("`{key}` must be a list of strings")))?;
        list.iter().map(|v| self.string(key, v)).collect()
    }

    fn table<'a>(&self, key: &str, value: &'a Value) -> Result<&'a Settings, Unavailable> {
        value.as_table().ok_or_else(|| self.wrong(format!("`{key}` must hold a table")))
    }

    fn duration(&self, key: &str, value: &Value) -> Result<u64, Unavailable> {
        parse_duration(&self.string(key, value)?).map_err(|e| self.wrong(format!("`{key}`: {e}")))
    }

    fn number(
        &self,
        table: &Settings,
        key: &str,
        default: i64,
        range: std::ops::RangeInclusive<i64>,
    ) -> Result<i64, Unavailable> {
        match table.get(key).map(Value::as_integer) {
            None => Ok(default),
            Some(Some(n)) if range.contains(&n) => Ok(n),
            Some(_) => Err(self.wrong(format!(
                "`{key}` must be a whole number from {} to {}",
                range.start(),
                range.end()
            ))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(toml: &str) -> Result<(Config, Vec<Arc<Stream>>), Unavailable> {
        read("net_x", &toml.parse().unwrap(), &Roots::default())
    }

    #[test]
    fn a_full_table() {
        let (config, streams) = parse(
            r#"
            command = ["/usr/local/bin/x", "--all"]
            interval = "10s"
            timeout = "2s"
            env = { A = "b" }
            max_line = 1024
            max_lines_per_s = 5
            help = "things"
            subjects = ["host", "device"]
            fields = { used = { unit = "bytes", help = "now" }, hits = { kind = "counter" } }
            [streams.slow]
            mode = "occurrences"
            fields = { took = { kind = "duration" }, who = { kind = "text" } }
            "#,
        )
        .unwrap();
        assert_eq!(config.command, ["/usr/local/bin/x", "--all"]);
        assert_eq!((config.interval_ns, config.timeout), (Some(10_000_000_000), Duration::from_secs(2)));
        assert_eq!((config.max_line, config.max_lines_per_s), (1024, 5));
        assert!(config.env.contains(&("A".into(), "b".into())));
        assert_eq!(streams.iter().map(|s| &*s.name).collect::<Vec<_>>(), ["net_x", "net_x.slow"]);
        assert_eq!((streams[0].mode, streams[1].mode), (Mode::Sampled, Mode::Occurrences));
        assert_eq!(*streams[0].subjects, [SubjectKind::Host, SubjectKind::Device]);
        let used = &streams[0].fields[streams[0].field_index("used").unwrap()];
        assert_eq!((used.kind, used.unit, &*used.help), (FieldKind::Gauge, Unit::Bytes, "now"));
        assert_eq!(streams[1].fields[streams[1].field_index("took").unwrap()].unit, Unit::Time);
    }

    #[test]
    fn what_is_wrong_is_said_with_its_place() {
        let c = "command = [\"/bin/true\"]\n";
        for (toml, part) in [
            ("", "`command` is missing"),
            ("command = []", "is empty"),
            ("command = \"/bin/true\"", "list of strings"),
            ("command = [\"a\\u0000b\"]", "must be a string"),
            ("command = [\"./x\"]", "relative path"),
            (&format!("{c}intervall = \"1s\""), "did you mean `interval`?"),
            (&format!("{c}interval = \"1ms\""), "under 100ms"),
            (&format!("{c}interval = 3"), "must be a string"),
            (&format!("{c}timeout = \"1s\""), "needs an `interval`"),
            (&format!("{c}max_line = 1"), "from 64 to"),
            (&format!("{c}mode = \"sampled\""), "needs `fields`"),
            (&format!("{c}fields = {{}}"), "1 to 64"),
            (&format!("{c}fields = {{ A = {{}} }}"), "fields.A]: the name"),
            (&format!("{c}fields = {{ a = {{ kind = \"guage\" }} }}"), "did you mean `gauge`?"),
            (&format!("{c}fields = {{ a = {{ unit = \"ms\" }} }}"), "it can be count"),
            (&format!("{c}fields = {{ a = {{ kind = \"duration\" }} }}"), "mode = \"occurrences\""),
            (&format!("{c}subjects = [\"hosts\"]\nfields = {{ a = {{}} }}"), "did you mean `host`?"),
            (&format!("{c}env = {{ \"a=b\" = \"c\" }}"), "impossible name"),
            (&format!("{c}[streams.x]"), "streams.x]: `fields` is missing"),
        ] {
            let e = parse(toml).unwrap_err();
            assert!(
                e.bad_settings && e.why.contains(part) && e.why.starts_with("[collectors.exec.net_x"),
                "{toml}: {e}"
            );
        }
        let toml: Settings = c.parse().unwrap();
        for name in ["Net", "a.b", "", "self", "kernel_log"] {
            assert!(read(name, &toml, &Roots::default()).unwrap_err().bad_settings, "{name}");
        }
    }
}
