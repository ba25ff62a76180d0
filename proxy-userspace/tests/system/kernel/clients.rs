//! Clients that go on while agents come and go, and end with what they saw when it was not what
//! they should see.

use std::{
    net::IpAddr,
    process::{Child, Command, Stdio},
};

use anyhow::{Context, Result, bail, ensure};

use crate::{
    rig::Pod,
    support::{stderr, stdout},
};

/// A client with bash alone, which makes a connection without starting a program. `$1` and `$2`
/// are address and port, `$3` is the answer's body, `$4` what to do:
///
/// - `dial`: a connection for each request;
/// - `keep`: the same connection for all requests, until an answer says that it ends;
/// - `wish`: as `dial`, but a connection that fails is no fault; only another answer is.
///
/// It ends when its input does, with the number of answers that it had.
const CLIENT: &str = r#"
fail() { echo "after $answers answers: $*"; exit 1; }
ask() {
    local line length=
    said= body= closes=
    printf 'GET / HTTP/1.1\r\nHost: %s\r\n%s\r\n' "$1" "$2" >&3 || return 1
    IFS= read -r -t 120 said <&3 || return 1
    while IFS= read -r -t 120 line <&3; do
        line=${line%$'\r'}
        [ -n "$line" ] || break
        case ${line,,} in
            content-length:*) length=${line#*: } ;;
            connection:*close*) closes=yes ;;
        esac
    done
    [ -n "$length" ] && IFS= read -r -t 120 -N "$length" body <&3
}
trap '' PIPE
[ "$4" = wish ] && exec 2> /dev/null
answers=0
goes_on() { read -rt 0.005; (($? > 128)); }
while goes_on; do
    if ! exec 3<>"/dev/tcp/$1/$2"; then
        [ "$4" = wish ] && continue
        fail "cannot connect"
    fi
    while :; do
        if [ "$4" = keep ]; then ask "$1" ''; else ask "$1" $'Connection: close\r\n'; fi
        asked=$?
        if [ -n "$body" ] && [ "$body" != "$3" ]; then fail "$said $body"; fi
        if [ $asked != 0 ] || [ "$body" != "$3" ]; then
            [ "$4" = wish ] && break
            fail "no answer, but: $said"
        fi
        answers=$((answers + 1))
        [ "$4" = keep ] && [ -z "$closes" ] && goes_on || break
    done
    exec 3>&-
done
echo "$answers"
"#;

/// What a client does.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Habit {
    /// A connection for each request.
    Dial,
    /// Many requests on a connection, for as long as that may go on.
    Keep,
    /// A connection for each request, which may fail.
    Wish,
}

/// Where a client dials, and what it has to see there.
#[derive(Clone, Debug)]
pub(crate) struct Goal {
    pub(crate) ip: IpAddr,
    pub(crate) port: u16,
    pub(crate) body: String,
}

/// A running client; it ends with the value, or with this process.
pub(crate) struct Client {
    what: String,
    child: Option<Child>,
}

impl Client {
    /// Starts one in a pod.
    pub(crate) fn start(pod: &Pod, habit: Habit, goal: &Goal) -> Result<Self> {
        let mut command = pod.sandbox.command("bash");
        command
            .arg("-c")
            .arg(format!("echo 0 > \"$0/cgroup.procs\" || exit 99\n{CLIENT}"))
            .arg(pod.cgroup.path());
        Self::with(command, habit, goal)
    }

    /// Starts one in a pod's network that is no workload.
    pub(crate) fn beside(pod: &Pod, habit: Habit, goal: &Goal) -> Result<Self> {
        let mut command = pod.sandbox.command("bash");
        command.arg("-c").arg(CLIENT).arg("client");
        Self::with(command, habit, goal)
    }

    fn with(mut command: Command, habit: Habit, goal: &Goal) -> Result<Self> {
        let mode = match habit {
            Habit::Dial => "dial",
            Habit::Keep => "keep",
            Habit::Wish => "wish",
        };
        let child = command
            .arg(goal.ip.to_string())
            .arg(goal.port.to_string())
            .args([&goal.body, mode])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        Ok(Self {
            what: format!("{habit:?} of {}:{}", goal.ip, goal.port),
            child: Some(child),
        })
    }

    /// Fails with what it saw if it has ended.
    pub(crate) fn check(&mut self) -> Result<()> {
        let child = self.child.as_mut().context("it was ended")?;
        if child.try_wait()?.is_some() {
            self.end()?;
            bail!("{} ended too early", self.what);
        }
        Ok(())
    }

    /// Ends it. Returns the number of answers.
    pub(crate) fn end(&mut self) -> Result<u64> {
        let child = self.child.take().context("it was ended")?;
        // This closes its input.
        let output = child.wait_with_output()?;
        ensure!(
            output.status.success(),
            "{}: {}{}",
            self.what,
            stdout(&output),
            stderr(&output)
        );
        let answers = stdout(&output);
        let answers = answers.trim().parse();
        answers.with_context(|| format!("{}: {output:?}", self.what))
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
