//! The HTML part: made by a template of our own, which escapes every value that it is handed.

use super::super::template::{Form, render_once};
use crate::notify::Notification;

const SOURCE: &str = include_str!("message.html.j2");

/// # Errors
/// Why there is none, for example too much of everything; the text part goes alone then.
pub(super) fn render(n: &Notification) -> Result<String, String> {
    render_once(SOURCE, Form::Html, n)
}

#[cfg(test)]
mod tests {
    use super::super::super::samples;
    use super::*;
    use crate::notify::Content;

    #[test]
    fn samples_render() {
        for (what, n) in samples::all("node-1") {
            let html = render(&n).unwrap_or_else(|e| panic!("{what}: {e}"));
            assert!(html.contains("node-1") && html.ends_with("</html>"), "{what}: {html}");
        }
        let html = render(&samples::verdict("node-1")).unwrap();
        for part in [
            "systemctl set-property &#x27;my app.service&#x27; MemoryMax=2G",
            "allocstall did not move",
            "412.0 ms",
            "redis-server",
        ] {
            assert!(html.contains(part), "{part}: {html}");
        }
    }

    #[test]
    fn nothing_from_outside_is_markup() {
        let evil = "<script>\"'&\u{202e}\x1b</script>";
        let mut n = samples::verdict(evil);
        if let Content::Verdict(v) = &mut n.content {
            for s in [
                &mut v.summary,
                &mut v.subject,
                &mut v.incident,
                &mut v.cause,
                &mut v.rule,
                &mut v.started_at,
            ] {
                *s = evil.into();
            }
            for l in &mut v.chain {
                (l.cause, l.subject, l.summary) = (evil.into(), evil.into(), evil.into());
            }
            for a in v.victims.iter_mut().chain(&mut v.culprits) {
                (a.comm, a.cgroup, a.kind, a.unit) =
                    (Some(evil.into()), Some(evil.into()), evil.into(), Some(evil.into()));
            }
            for e in &mut v.evidence {
                (e.field, e.subject, e.unit, e.window) = (evil.into(), evil.into(), evil.into(), evil.into());
            }
            (v.ruled_out[0].cause, v.ruled_out[0].because) = (evil.into(), evil.into());
            let h = &mut v.hints[0];
            (h.text, h.risk, h.docs, h.command) =
                (evil.into(), Some(evil.into()), Some(evil.into()), Some(vec![evil.into()]));
        }
        let html = render(&n).unwrap();
        assert!(!html.contains("<script") && !html.contains(['\x1b', '\u{202e}']), "{html}");
        assert!(html.contains("&lt;script&gt;"));
    }
}
