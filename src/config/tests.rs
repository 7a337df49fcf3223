//! Configs in, problems out.

use proptest::prelude::*;

use super::*;

fn names() -> KnownNames<'static> {
    KnownNames {
        collectors: vec![("memcg", &["max_cgroups"]), ("kernel_log", &["from"]), ("vmstat", &[])],
        exec: &["command", "interval", "timeout", "env", "fields"],
    }
}

fn good(text: &str) -> Config {
    Config::parse(text, "x.toml", &names()).unwrap_or_else(|e| panic!("{e}"))
}

/// Every problem as `line:column message [help]`.
#[track_caller]
fn bad(text: &str, want: &[&str]) {
    let error = Config::parse(text, "x.toml", &names()).expect_err("it is wrong");
    let line = |p: &Problem| {
        let help = p.help.as_ref().map(|h| format!(" [{h}]")).unwrap_or_default();
        format!("{}:{} {}{help}", p.line, p.column, p.message)
    };
    assert_eq!(error.problems.iter().map(line).collect::<Vec<_>>(), want);
}

#[test]
fn the_example_is_right() {
    let text = include_str!("../../examples/whystall.toml");
    let names = KnownNames::of(whystall_collectors::ALL, whystall_collectors::exec::KEYS);
    let c = Config::parse(text, "examples/whystall.toml", &names).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(c.interval_ns, SEC);
    assert_eq!(c.rules_dirs, Some(vec!["/etc/whystall/rules".into()]));
    assert_eq!(
        (c.collectors["memcg"].enabled, c.collectors["memcg"].interval_ns),
        (Some(true), Some(2 * SEC))
    );
    let exec = &c.exec["conntrack"];
    assert_eq!((exec.enabled, exec.interval_ns), (Some(false), Some(10 * SEC)));
    assert_eq!(exec.settings["command"].as_array().map(Vec::len), Some(1));
    assert_eq!(exec.settings["interval"].as_str(), Some("10s"));
    assert!(!exec.settings.contains_key("enabled"));
    let rule = &c.rules["memory.direct_reclaim_burst"];
    assert_eq!((rule.severity, &rule.params["stall_ms"].0), (Some(Severity::Critical), &Param::Number(50.0)));
    let [backup, batch] = &rule.exceptions[..] else { panic!() };
    assert!(batch.matches["cgroup"].matches("/batch/a/b") && batch.until_ns.is_none());
    let end = whystall_event::parse_rfc3339("2027-02-01T00:00:00Z").unwrap();
    assert_eq!(backup.until_ns, Some(end));
    assert!(backup.holds_at(end - 1) && !backup.holds_at(end));
    assert_eq!(c.rules["cpu.irq_storm"].enabled, Some(false));
    let kinds: Vec<_> = c.receivers.iter().map(|r| (r.name.as_str(), &r.kind)).collect();
    assert!(
        matches!(kinds[0], ("ops", ReceiverKind::Webhook(w)) if w.http.timeout_ns == Some(10 * SEC) && w.secret_file.is_some())
    );
    assert!(matches!(kinds[2], ("chat", ReceiverKind::Slack(h)) if h.url.is_none() && h.url_file.is_some()));
    assert!(
        matches!(kinds[3], ("mail", ReceiverKind::Email(Email { via: Via::Smtp(s), .. })) if s.port == 587 && s.tls == Tls::Starttls && s.login.is_some())
    );
    assert!(matches!(kinds[1], ("alerts", ReceiverKind::Alertmanager(a)) if a.labels["team"] == "platform"));
    assert!(matches!(kinds[4].1, ReceiverKind::Email(Email { via: Via::Sendmail(_), .. })));
    assert!(matches!(kinds[5].1, ReceiverKind::Journal));
    assert_eq!(c.routes[0].matches["severity"].len(), 2);
    assert_eq!(
        (c.routes[0].group_wait_ns, c.routes[0].repeat_interval_ns),
        (Some(10 * SEC), Some(4 * 3600 * SEC))
    );
    assert!(c.routes[1].matches["cause"][0].matches("memcg.limit"));
}

#[test]
fn an_empty_file_is_the_default() {
    for text in ["", "# nothing\n"] {
        let (empty, default) = (good(text), Config::default());
        assert_eq!(empty.interval_ns, default.interval_ns);
        assert!(empty.collectors.is_empty() && empty.rules.is_empty() && empty.rules_dirs.is_none());
    }
}

#[test]
fn everything_wrong_is_told_at_once() {
    let text =
        "intervall = \"1s\"\n\n[collectors.memgc]\n[collectors.memcg]\nenabled = \"yes\"\nmax_cgroup = 3\n";
    let error = Config::parse(text, "/etc/whystall/whystall.toml", &names()).unwrap_err();
    assert_eq!(
        error.to_string(),
        r#"error: unknown key `intervall`
 --> /etc/whystall/whystall.toml:1:1
  |
1 | intervall = "1s"
  | ^^^^^^^^^
  = help: did you mean `interval`?

error: unknown collector `memgc`
 --> /etc/whystall/whystall.toml:3:13
  |
3 | [collectors.memgc]
  |             ^^^^^
  = help: did you mean `memcg`?

error: expected true or false, found text
 --> /etc/whystall/whystall.toml:5:11
  |
5 | enabled = "yes"
  |           ^^^^^

error: unknown key `max_cgroup`
 --> /etc/whystall/whystall.toml:6:1
  |
6 | max_cgroup = 3
  | ^^^^^^^^^^
  = help: did you mean `max_cgroups`?"#
    );
}

#[test]
fn syntax() {
    bad(
        "interval = \n[collectors\nx = 1\n",
        &[
            "1:12 this is not TOML: string values must be quoted, expected literal string",
            "2:12 this is not TOML: unclosed table, expected `]`",
        ],
    );
    bad("interval = \"1s\"\ninterval = \"2s\"\n", &["2:1 this is not TOML: duplicate key"]);
}

#[test]
fn top_level() {
    bad("interval = 1", &["1:12 expected a duration in quotes such as \"10s\", found a number"]);
    bad("interval = \"1ms\"", &["1:12 `1ms` is too short: at least 10ms"]);
    bad("interval = \"10\"", &["1:12 `10` has no unit: write for example 500ms, 10s, 5m, 1h, 2d"]);
    bad("rules_dirs = \"/a\"", &["1:14 expected a list of directories, found text"]);
    bad(
        "rules_dirs = [\"/a\", 7, \"\"]",
        &["1:21 expected text in quotes, found a number", "1:24 this must not be empty"],
    );
    bad(
        "collectors = 1\nrules = []",
        &["1:14 expected a table, found a number", "2:9 expected a table, found a list"],
    );
    bad(
        "zzz = 1",
        &[
            "1:1 unknown key `zzz` [possible here: interval, rules_dirs, collectors, rules, receiver, route, store]",
        ],
    );
}

#[test]
fn collectors() {
    bad("[collectors.vmstat]\nx = 1", &["2:1 unknown key `x` [possible here: enabled, interval]"]);
    bad("[collectors]\nmemcg = true", &["2:9 expected a table, found true or false"]);
    bad(
        "[collectors.exec]\ncommand = [\"x\"]",
        &[
            "2:1 `command` is no exec collector's table [each exec collector has a table of its own: [collectors.exec.NAME] with `command` in it]",
        ],
    );
    bad(
        "[collectors.exec.My-One]\n[collectors.exec.b]\ncomand = [\"x\"]",
        &[
            "1:18 this is no name for an exec collector [lower-case letters, digits and `_`, beginning with a letter]",
            "3:1 unknown key `comand` [did you mean `command`?]",
        ],
    );
    bad(
        "[collectors.memcg]\nmax_cgroups = 99999999999999999999",
        &["2:15 expected a number of at most 64 bits, found a number"],
    );
    let c = good(
        "[collectors.memcg]\nmax_cgroups = 0x10\n[collectors.exec.a]\nenv = { A = \"1\", B = [1.5, 1979-05-27] }",
    );
    assert_eq!(c.collectors["memcg"].settings["max_cgroups"].as_integer(), Some(16));
    assert_eq!(c.exec["a"].settings["env"]["B"].as_array().map(Vec::len), Some(2));
}

#[test]
fn rules() {
    bad(
        "[rules.memory.direct_reclaim_burst]\nenabled = false",
        &["1:8 this is no rule's table [a rule's id has quotes: [rules.\"memory.direct_reclaim_burst\"]]"],
    );
    bad(
        "[rules.\"a.b\"]\nseverty = \"info\"\nseverity = \"fatal\"\nenabled = 1\nparams = { a = [], b = nan }",
        &[
            "2:1 unknown key `severty` [did you mean `severity`?]",
            "3:12 unknown severity `fatal` [possible here: info, warning, critical]",
            "4:11 expected true or false, found a number",
            "5:16 expected a number, true or false, or text, found a list",
            "5:24 expected a finite number, found a number",
        ],
    );
    bad(
        "[[rules.\"a.b\".exceptions]]\ncgroup = \"\"\nreason = \"x\"\nuntil = \"2027-02-30\"\n[[rules.\"a.b\".exceptions]]\nuntil = 7",
        &[
            "2:10 this must not be empty",
            "4:9 `2027-02-30` is no date: write year, month and day as in \"2027-01-31\"",
            "5:1 this exception says nothing of what is excepted [name what is excepted, for example cgroup = \"/batch/*\"; to switch the rule off, enabled = false]",
            "5:1 an exception needs a reason [whoever reads this later wants to know: reason = \"…\"]",
            "6:9 expected a date such as \"2027-01-31\", found a number",
        ],
    );
    let c = good(
        "[rules.\"a\"]\nparams = { n = 3, b = true, t = \"x\" }\nexceptions = [{ unit = \"x\", reason = \"y\", until = 2027-01-31 }]",
    );
    let params: Vec<_> = c.rules["a"].params.values().map(|p| p.0.clone()).collect();
    assert_eq!(params, [Param::Bool(true), Param::Number(3.0), Param::Text("x".into())]);
    // What the daemon finds later gets the same form.
    let span = c.rules["a"].params["n"].1.clone();
    let p = c.source().problem(span, "too small");
    assert_eq!((p.line, p.column), (2, 16));
}

#[test]
fn receivers() {
    bad(
        "[[receiver]]\nname = \"a\"\ntype = \"webhok\"\n[[receiver]]\nname = \"a\"\ntype = \"journal\"\nurl = \"x\"\n[[receiver]]\n",
        &[
            "3:8 unknown type of receiver `webhok` [did you mean `webhook`?]",
            "5:8 there are two receivers called `a`",
            "7:1 unknown key `url` [possible here: name, type, burst, per_minute, retry_for, max_pending, heartbeat]",
            "8:1 this receiver has no `name`",
            "8:1 this receiver has no `type`",
        ],
    );
    bad(
        "[[receiver]]\nname = \"a\"\ntype = \"webhook\"\n[[receiver]]\nname = \"b\"\ntype = \"slack\"\nurl = \"ftp://x\"\nurl_file = \"/f\"\nclient_key_file = \"k\"",
        &[
            "1:1 this receiver has no `url`",
            "4:1 this receiver has `client_key_file` but no `client_cert_file`",
            "7:7 this is no URL [write https://host/path]",
            "8:12 `url` and `url_file` cannot both be given",
        ],
    );
    bad(
        "[[receiver]]\nname = \"m\"\ntype = \"email\"\nsmtp = \"mail.example\"\ntls = \"ssl\"\nfrom = \"me\"\nto = [\"a@b\", \"c d@e\"]\nusername = \"u\"",
        &[
            "1:1 this receiver has `username` but no `password_file`",
            "4:8 `mail.example` is no server and port [write host:port, for example mail.example:587]",
            "5:7 unknown tls mode `ssl` [possible here: starttls, implicit, none]",
            "6:8 `me` is no email address",
            "7:14 `c d@e` is no email address",
        ],
    );
    bad(
        "[[receiver]]\nname = \"m\"\ntype = \"email\"\nsmtp = \"mail.example:25\"\ntls = \"none\"\nfrom = \"a@b\"\nto = []",
        &[
            "5:7 `mail.example` is not this host [without TLS only a server on this host is allowed; use \"starttls\" or \"implicit\"]",
            "7:6 there is no recipient",
        ],
    );
    for server in ["localhost:25", "127.0.0.1:25", "[::1]:25"] {
        let c = good(&format!(
            "[[receiver]]\nname = \"m\"\ntype = \"email\"\nsmtp = \"{server}\"\ntls = \"none\"\nfrom = \"a@b\"\nto = [\"c@d\"]"
        ));
        assert!(
            matches!(&c.receivers[0].kind, ReceiverKind::Email(Email { via: Via::Smtp(s), .. }) if s.port == 25)
        );
    }
}

#[test]
fn keys_of_receivers() {
    let receiver = |kind: &str, rest: &str| format!("[[receiver]]\nname = \"a\"\ntype = \"{kind}\"\n{rest}");
    bad(
        &receiver(
            "webhook",
            "url = \"https://u:p@h/\"\ncontent_type = \"x\"\nbearer_fil = \"t\"\nproxy = \"u@h:3128\"",
        ),
        &[
            "4:7 this URL has a password in it [write it into a file and name that with url_file]",
            "5:16 `content_type` is only for what a `template` makes",
            "5:16 this is no type of content [write for example \"application/json\"]",
            "6:1 unknown key `bearer_fil` [did you mean `bearer_file`?]",
            "7:9 this is no URL [write https://host/path]",
        ],
    );
    bad(
        &receiver(
            "webhook",
            "url = \"https://h/\"\ntemplate = \"x\"\ntemplate_file = \"/x\"\ntimeout = \"1ms\"",
        ),
        &[
            "6:17 `template` and `template_file` cannot both be given",
            "7:11 `1ms` is too short: at least 100ms",
        ],
    );
    bad(
        &receiver("slack", "url = \"https://h/\"\nsecret_fil = \"/x\""),
        &["5:1 unknown key `secret_fil` [did you mean `bearer_file`?]"],
    );
    bad(
        &receiver(
            "alertmanager",
            "url = \"http://h/\"\nlabels = { \"a-b\" = \"x\", severity = \"x\", ok = 1 }\nexpire = \"1s\"",
        ),
        &[
            "5:12 this is no name of a label [letters, digits and `_`, not beginning with a digit]",
            "5:25 the label `severity` is set by whystall",
            "5:46 expected text in quotes, found a number",
            "6:10 `1s` is too short: at least 1m",
        ],
    );
    bad(
        &receiver("email", "sendmail = \"sendmail\"\ntls = \"none\"\nfrom = \"a@b.c\"\nto = [\"a@b.c\"]"),
        &[
            "4:12 this is no whole path [write for example \"/usr/sbin/sendmail\"]",
            "5:7 `sendmail` and `tls` cannot both be given",
        ],
    );
    let c =
        good(&receiver("webhook", "url = \"https://h/\"\nproxy = \"none\"\nallow_special_addresses = true"));
    assert!(
        matches!(&c.receivers[0].kind, ReceiverKind::Webhook(w) if w.http.proxy == Proxy::None && w.http.allow_special_addresses)
    );
    assert_eq!(c.source().position(c.receivers[0].span_of("proxy").start).line, 5);
    assert_eq!(c.source().position(c.receivers[0].span_of("template").start).line, 1);
}

#[test]
fn routes() {
    bad(
        "[[receiver]]\nname = \"ops\"\ntype = \"journal\"\n[[route]]\nreceivers = [\"opps\"]\nmatch = { severity = [\"bad\"], casue = \"x\" }\nrepeat_interval = \"1s\"\n[[route]]\n[[route]]\nreceivers = []",
        &[
            "5:14 unknown receiver `opps` [did you mean `ops`?]",
            "6:23 unknown severity `bad` [possible here: info, warning, critical]",
            "6:31 unknown key `casue` [did you mean `cause`?]",
            "7:19 `1s` is too short: at least 1m",
            "8:1 this route has no `receivers`",
            "10:13 a route needs at least one receiver",
        ],
    );
}

#[test]
fn marks_stand_below_what_is_meant() {
    let error = |text: &str| Config::parse(text, "x", &names()).unwrap_err().to_string();
    let mark = |shown: &str| {
        let lines: Vec<Vec<char>> = shown.lines().map(|l| l.chars().collect()).collect();
        let at = lines[4].iter().position(|c| *c == '^').unwrap();
        (lines[3][at], lines[3].len())
    };
    let shown = error("rules_dirs = [\"ü\u{9b}\", 7]");
    assert!(shown.contains("1 | rules_dirs = [\"ü\\x9b\", 7]\n"), "{shown}");
    assert_eq!(mark(&shown).0, '7');
    let (marked, width) = mark(&error(&format!("rules_dirs = [{} 7]", "\"x\",".repeat(200))));
    assert!(marked == '7' && width < 200, "{marked} {width}");
}

#[test]
fn files() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("whystall.toml");
    let missing = Config::load(Some(&path), &names()).unwrap_err().to_string();
    assert!(missing.starts_with(&format!("{}: No such file", path.display())), "{missing}");
    std::fs::write(&path, "interval = \"2s\"").unwrap();
    assert_eq!(Config::load(Some(&path), &names()).unwrap().interval_ns, 2 * SEC);
    std::fs::write(&path, b"\xff").unwrap();
    assert!(matches!(Config::load(Some(&path), &names()), Err(LoadError::Read { .. })));
    std::fs::write(&path, "x = 1").unwrap();
    let wrong = Config::load(Some(&path), &names()).unwrap_err().to_string();
    assert!(wrong.contains("whystall.toml:1:1"), "{wrong}");
    assert!(matches!(Config::load(Some(dir.path()), &names()), Err(LoadError::Read { .. })));
}

proptest! {
    #[test]
    fn any_text_is_safe(s: String, t in "[a-z\\[\\]\"=.{}, \n0-9é]{0,80}") {
        for text in [s, t.clone(), format!("[[receiver]]\n{t}"), format!("[rules.\"a\"]\n{t}")] {
            if let Err(e) = Config::parse(&text, "x", &names()) {
                prop_assert!(!e.to_string().is_empty());
            }
        }
    }
}
