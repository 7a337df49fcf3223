//! `whystall check` finds what is wrong with receivers before anything runs.

use crate::program::run;

#[test]
fn missing_files_and_bad_templates_are_found() {
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("whystall.toml");
    let bad_key = dir.path().join("key");
    std::fs::write(&bad_key, "whsec_%%%").unwrap();
    let text = format!(
        "[[receiver]]\nname = \"a\"\ntype = \"webhook\"\nurl = \"http://h.example/\"\nsecret_file = \"/nonexistent/key\"\n\
         [[receiver]]\nname = \"b\"\ntype = \"webhook\"\nurl = \"http://h.example/\"\ntemplate = '{{\"a\": {{{{ verdict.nothing.more }}}}'\n\
         [[receiver]]\nname = \"c\"\ntype = \"webhook\"\nurl = \"http://h.example/\"\nsecret_file = {bad_key:?}\n\
         [[receiver]]\nname = \"d\"\ntype = \"slack\"\nurl = \"http://169.254.169.254/\"\n\
         [[receiver]]\nname = \"e\"\ntype = \"email\"\nsendmail = \"/nonexistent/sendmail\"\nfrom = \"a@b.c\"\nto = [\"d@e.f\"]\n\
         [[receiver]]\nname = \"f\"\ntype = \"slack\"\nurl_file = \"credential:slack\"\n"
    );
    std::fs::write(&config, text).unwrap();
    let file = config.to_str().unwrap();
    let ran = run(&["check", file]).exits(1);
    let has = |line: usize, text: &str| {
        let place = format!("{file}:{line}:");
        let hit = ran.stdout.split("\n\n").any(|d| d.contains(&place) && d.contains(text))
            || ran.stdout.lines().any(|l| l.contains(&place) && l.contains(text));
        assert!(hit, "line {line} without `{text}`:\n{}", ran.stdout);
    };
    has(5, "/nonexistent/key: No such file");
    has(10, "undefined value");
    has(15, "what follows `whsec_` is not base64");
    has(19, "link-local");
    has(23, "/nonexistent/sendmail: No such file");
    has(29, "$CREDENTIALS_DIRECTORY is not set");
    assert!(!ran.stdout.contains("%%%"), "{}", ran.stdout);
}

#[test]
fn credentials_are_read_from_their_directory() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("slack"), "http://127.0.0.1:9/x").unwrap();
    let config = dir.path().join("whystall.toml");
    std::fs::write(
        &config,
        "[[receiver]]\nname = \"f\"\ntype = \"slack\"\nurl_file = \"credential:slack\"\n",
    )
    .unwrap();
    let file = config.to_str().unwrap();
    let mut with = crate::program::whystall(&["check", file]);
    let ran: crate::program::Ran = with.env("CREDENTIALS_DIRECTORY", dir.path()).output().unwrap().into();
    ran.exits(0);
    // Outside of the service nobody can tell, and that is no error.
    run(&["check", file]).exits(0).prints(&["CREDENTIALS_DIRECTORY"]);
}
