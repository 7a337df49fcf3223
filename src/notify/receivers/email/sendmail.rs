//! A program that takes a message on standard input and sendmail's options, for hosts that have one.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use lettre::Address;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::Command;
use whystall_event::text::{escape, shorten};

use super::super::{Fault, Wrong};
use super::Fate;

/// As much of what the program says is read.
const SAID: u64 = 2048;

#[derive(Debug)]
pub(super) struct Program(PathBuf);

pub(super) fn build(path: &Path) -> Result<Program, Wrong> {
    let wrong =
        |why: &str| Fault::new(format!("{}: {why}", escape(&path.display().to_string()))).at("sendmail");
    let meta = std::fs::metadata(path).map_err(|e| wrong(&e.to_string()))?;
    if !meta.is_file() || meta.permissions().mode() & 0o111 == 0 {
        return Err(wrong("is no program"));
    }
    Ok(Program(path.to_path_buf()))
}

impl Program {
    /// The fate of each recipient: the same for all, as the program has one exit status.
    pub(super) async fn send(&self, from: &Address, to: &[Address], message: &[u8]) -> Vec<Fate> {
        vec![self.run(from, to, message).await; to.len()]
    }

    async fn run(&self, from: &Address, to: &[Address], message: &[u8]) -> Fate {
        let mut command = Command::new(&self.0);
        // `-i`: a line with only a dot does not end the message. Secrets have no business in arguments, and there are none.
        command.args(["-i", "-f", AsRef::<str>::as_ref(from), "--"]);
        command.args(to.iter().map(AsRef::<str>::as_ref));
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut child = match command.spawn() {
            Ok(child) => child,
            Err(e) => return Fate::Later(format!("{}: {e}", escape(&self.0.display().to_string()))),
        };
        let (stdin, stderr) = (child.stdin.take(), child.stderr.take());
        let mut said = Vec::new();
        let reading = async {
            if let Some(mut stderr) = stderr {
                // What it says beyond that would block it, so it is read and dropped.
                let _ = (&mut stderr).take(SAID).read_to_end(&mut said).await;
                let _ = tokio::io::copy(&mut stderr, &mut tokio::io::sink()).await;
            }
        };
        let writing = async {
            if let Some(mut stdin) = stdin {
                // It may end without reading everything; its exit status says what that means.
                let _ = stdin.write_all(message).await;
                let _ = stdin.shutdown().await;
            }
        };
        let status = both(writing, reading, child.wait()).await;
        let said = shorten(&escape(String::from_utf8_lossy(&said).trim()), 300).into_owned();
        match status.map(|s| s.code()) {
            Ok(Some(0)) => Fate::Taken,
            // sysexits.h: the message or its addresses are not accepted.
            Ok(Some(code @ (65 | 67 | 68))) => Fate::Never(format!("exit status {code}: {said}")),
            Ok(Some(code)) => Fate::Later(format!("exit status {code}: {said}")),
            Ok(None) => Fate::Later(format!("it was killed: {said}")),
            Err(e) => Fate::Later(e.to_string()),
        }
    }
}

/// Drives all three to their ends.
async fn both<T>(a: impl Future<Output = ()>, b: impl Future<Output = ()>, c: impl Future<Output = T>) -> T {
    use std::pin::pin;
    use std::task::Poll;
    let (mut a, mut b, mut c) = (pin!(a), pin!(b), pin!(c));
    let (mut a_done, mut b_done, mut result) = (false, false, None);
    std::future::poll_fn(move |cx| {
        a_done = a_done || a.as_mut().poll(cx).is_ready();
        b_done = b_done || b.as_mut().poll(cx).is_ready();
        if result.is_none()
            && let Poll::Ready(r) = c.as_mut().poll(cx)
        {
            result = Some(r);
        }
        match (a_done && b_done, result.take()) {
            (true, Some(r)) => Poll::Ready(r),
            (_, r) => {
                result = r;
                Poll::Pending
            }
        }
    })
    .await
}
