//! The client against the real agent of this host, which listens on a socket as well as on a port, and against worse ones.

#![expect(clippy::disallowed_methods, reason = "a test acts from outside")]

use super::*;
use crate::{
    backend::sample,
    command::{Collected, Input},
};
use proptest::prelude::*;
use serde_json::Value;
use std::{
    io::Write,
    path::Path,
    process::{Child, Command, Stdio},
    sync::Arc,
};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::UnixListener,
    sync::mpsc,
};
use vmdeck_model::{error::Blame, event::Stream, suite::RunAs};

/// Says where a command's streams are.
const FOLDER: &str = "dirname \"$(readlink /proc/$$/fd/1)\"";

/// The agent of this host, as if it ran in a guest.
struct RealAgent {
    child: Child,
    home: tempfile::TempDir,
}

impl RealAgent {
    fn start(more: &[&str]) -> Self {
        let home = tempfile::tempdir().expect("tempdir");
        let socket = home.path().join("agent.sock");
        let child = Command::new("qemu-ga")
            .env("PATH", format!("{}:/usr/sbin", std::env::var("PATH").unwrap_or_default()))
            .args(["-m", "unix-listen", "-p"])
            .arg(&socket)
            .arg("-t")
            .arg(home.path())
            .args(more)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("qemu-ga, of the package qemu-guest-agent");
        // The file of the socket is there a moment before anybody listens on it.
        while std::os::unix::net::UnixStream::connect(&socket).is_err() {
            std::thread::yield_now();
        }
        Self { child, home }
    }

    fn client(&self) -> Arc<GuestAgent> {
        Arc::new(agent_at(&self.home.path().join("agent.sock")))
    }
}

impl Drop for RealAgent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn agent_at(socket: &Path) -> GuestAgent {
    GuestAgent::of(&sample::guest(&[]), socket.to_owned(), watch::channel(true).1)
}

async fn run(agent: &GuestAgent, command: RemoteCommand) -> (Result<CommandExit>, Collected) {
    let mut out = Collected::default();
    let exit = agent.run(&command, &mut out, &CancellationToken::new()).await;
    (exit, out)
}

#[tokio::test]
async fn commands_keep_their_streams_their_end_and_their_surroundings() {
    let real = RealAgent::start(&[]);
    let agent = real.client();
    assert_eq!(agent.language().await, Ok(Shell::Posix));
    let here = real.home.path().to_string_lossy().into_owned();
    // The agent here is whoever runs the test.
    let own_id = format!("{}\n", rustix::process::geteuid().as_raw());
    for (command, exit, stdout, stderr) in [
        (RemoteCommand::new("echo out; echo err >&2; exit 7"), CommandExit::Code(7), "out\n", "err\n"),
        (RemoteCommand::new("kill -9 $$"), CommandExit::Signal("KILL".into()), "", ""),
        (RemoteCommand::new("cat"), CommandExit::Code(0), "", ""),
        (
            RemoteCommand { dir: Some(here.clone()), ..RemoteCommand::new("[ \"$PWD\" -ef . ] && printf '%s' \"$X\"") },
            CommandExit::Code(0),
            "",
            "",
        ),
        (
            RemoteCommand {
                env: [("X".to_owned(), "it's\n\"ü\" $HOME".to_owned())].into(),
                ..RemoteCommand::new("printf %s \"$X\"")
            },
            CommandExit::Code(0),
            "it's\n\"ü\" $HOME",
            "",
        ),
        (
            RemoteCommand { run_as: RunAs::Root, ..RemoteCommand::new("id -u") },
            CommandExit::Code(0),
            own_id.as_str(),
            "",
        ),
    ] {
        let (got, out) = run(&agent, command.clone()).await;
        assert_eq!(got, Ok(exit), "{}", command.script);
        assert_eq!(String::from_utf8_lossy(&out.stdout), stdout, "{}", command.script);
        assert_eq!(String::from_utf8_lossy(&out.stderr), stderr, "{}", command.script);
    }
    let missing = RemoteCommand { dir: Some("/no/such".into()), ..RemoteCommand::new("echo no") };
    let (got, out) = run(&agent, missing).await;
    assert!(got.expect_err("refused").to_string().contains("/no/such"));
    assert!(out.stdout.is_empty());
    let (_, out) = run(&agent, RemoteCommand::new(FOLDER)).await;
    let folder = String::from_utf8_lossy(&out.stdout).into_owned();
    assert!(folder.starts_with("/tmp/.vmdeck-") && !Path::new(folder.trim()).exists(), "{folder}");
}

#[tokio::test]
async fn a_large_input_comes_out_again() {
    let real = RealAgent::start(&[]);
    let mut file = tempfile::tempfile().expect("tempfile");
    let content: Vec<u8> = (0..1_000_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    file.write_all(&content).expect("written");
    let command =
        RemoteCommand { stdin: Input::Unnamed(Arc::new(file)), ..RemoteCommand::new("cat; cat >&2 </dev/null") };
    let (exit, out) = run(&real.client(), command).await;
    assert_eq!(exit, Ok(CommandExit::Code(0)));
    assert!(out.stdout == content, "{} bytes of {}", out.stdout.len(), content.len());
}

/// Passes on what comes, as it comes.
struct PassedOn(mpsc::UnboundedSender<Vec<u8>>);

impl OutputSink for PassedOn {
    fn write(&mut self, _: Stream, bytes: &[u8]) {
        let _ = self.0.send(bytes.to_vec());
    }
}

#[tokio::test]
async fn output_comes_while_the_command_runs_and_a_cancelled_one_ends_with_its_children() {
    let real = RealAgent::start(&[]);
    let agent = real.client();
    let (told, mut heard) = mpsc::unbounded_channel();
    let cancel = CancellationToken::new();
    let command = RemoteCommand::new("echo begun; sleep 4711.25 & wait");
    let mut sink = PassedOn(told);
    let running = agent.run(&command, &mut sink, &cancel);
    let watching = async {
        assert_eq!(heard.recv().await.as_deref(), Some(&b"begun\n"[..]));
        cancel.cancel();
    };
    let (ended, ()) = tokio::join!(running, watching);
    assert_eq!(ended.expect_err("cancelled").blame(), Blame::Cancelled);
    let left = Command::new("pgrep").args(["-f", "sleep 4711.25"]).output().expect("pgrep");
    assert!(left.stdout.is_empty(), "{}", String::from_utf8_lossy(&left.stdout));
}

#[tokio::test]
async fn an_agent_that_goes_away_is_infra_and_never_an_end() {
    let mut real = RealAgent::start(&[]);
    let agent = real.client();
    let (told, mut heard) = mpsc::unbounded_channel();
    let script = format!("{FOLDER}; exec sleep 4712");
    let (command, cancel) = (RemoteCommand::new(script), CancellationToken::new());
    let mut sink = PassedOn(told);
    let running = agent.run(&command, &mut sink, &cancel);
    let killing = async {
        let folder = heard.recv().await.expect("its folder");
        let _ = real.child.kill();
        String::from_utf8_lossy(&folder).trim().to_owned()
    };
    let (ended, folder) = tokio::join!(running, killing);
    let fault = ended.expect_err("lost");
    assert_eq!(fault.blame(), Blame::Infra);
    assert!(fault.to_string().contains("cannot finish the command"), "{fault}");
    let _ = Command::new("pkill").args(["-f", "sleep 4712"]).status();
    std::fs::remove_dir_all(folder).expect("what nobody could remove any more");
}

#[tokio::test]
async fn a_port_that_closes_ends_the_wait_at_once() {
    let real = RealAgent::start(&[]);
    let (open, is_open) = watch::channel(true);
    let agent = GuestAgent::of(&sample::guest(&[]), real.home.path().join("agent.sock"), is_open);
    let (told, mut heard) = mpsc::unbounded_channel();
    let (command, cancel) = (RemoteCommand::new(format!("{FOLDER}; exec sleep 4713")), CancellationToken::new());
    let mut sink = PassedOn(told);
    let running = agent.run(&command, &mut sink, &cancel);
    let closing = async {
        let folder = heard.recv().await.expect("its folder");
        open.send_replace(false);
        String::from_utf8_lossy(&folder).trim().to_owned()
    };
    let (ended, folder) = tokio::join!(running, closing);
    let fault = ended.expect_err("lost");
    assert!(fault.blame() == Blame::Infra && fault.to_string().contains("closed its port"), "{fault}");
    let _ = Command::new("pkill").args(["-f", "sleep 4713"]).status();
    std::fs::remove_dir_all(folder).expect("what nobody could remove any more");
}

#[tokio::test]
async fn an_agent_that_may_not_run_commands_says_what_to_do() {
    let real = RealAgent::start(&["-b", "guest-exec"]);
    let (ended, _) = run(&real.client(), RemoteCommand::new("true")).await;
    let fault = ended.expect_err("forbidden");
    assert!(!fault.is_worth_a_retry(), "waiting cannot help");
    assert!(fault.render().contains("/etc/sysconfig/qemu-ga"), "{}", fault.render());
}

#[tokio::test(start_paused = true)]
async fn a_port_that_nobody_opens_is_worth_another_attempt() {
    let agent = GuestAgent::of(&sample::guest(&[]), "/no/such".into(), watch::channel(false).1);
    // Nobody tells whether it is open any more: the agent itself is asked, and there is none.
    let fault = agent.language().await.expect_err("no agent");
    assert!(fault.is_worth_a_retry(), "{fault}");
    let (open, is_open) = watch::channel(false);
    let agent = GuestAgent::of(&sample::guest(&[]), "/no/such".into(), is_open);
    let fault = agent.language().await.expect_err("not open");
    assert!(fault.is_worth_a_retry() && fault.render().contains("qemu-guest-agent"), "{}", fault.render());
    drop(open);
}

/// Serves one connection with what answers each question; an empty text answers nothing.
async fn serve(listener: UnixListener, mut answers: impl FnMut(&Value) -> String + Send + 'static) {
    let (stream, _) = listener.accept().await.expect("a client");
    let mut stream = BufReader::new(stream);
    let mut line = Vec::new();
    while (&mut stream).take(1 << 20).read_until(b'\n', &mut line).await.is_ok_and(|length| length > 0) {
        let start = line.iter().position(|byte| *byte == b'{').unwrap_or_default();
        let question: Value = serde_json::from_slice(&line[start..]).expect("JSON");
        let answer = if question["execute"] == "guest-sync-delimited" {
            // An answer to somebody who is gone comes first.
            let late = "{\"return\": {\"pid\": 1}}\n{\"return\": 77}\n";
            [late.as_bytes(), &[0xff], format!("{}\n", json!({ "return": question["arguments"]["id"] })).as_bytes()]
                .concat()
        } else {
            answers(&question).into_bytes()
        };
        let _ = stream.get_mut().write_all(&answer).await;
        line.clear();
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_no_answer_is_a_fault() {
    for (answer, said) in [
        ("", "gave no answer within 30 s"),
        ("not json\n", "was lost"),
        ("{\"return\": 3}\n", "nothing that is known"),
        ("{\"error\": {\"class\": \"GenericError\", \"desc\": \"no\\u001b[2J\\nway\"}}\n", "the guest agent says: no"),
        ("{}\n", "nothing that is known"),
    ] {
        let home = tempfile::tempdir().expect("tempdir");
        let socket = home.path().join("s");
        let listener = UnixListener::bind(&socket).expect("bound");
        tokio::spawn(serve(listener, move |_| answer.to_owned()));
        let client = AgentClient::new(socket);
        let error = client.start("/bin/true", &[]).await.expect_err("no pid");
        let text = error.fault("x").to_string();
        assert!(text.contains(said) && !text.contains('\u{1b}'), "{answer:?}: {text}");
    }
}

#[tokio::test]
async fn windows_gets_words_that_nobody_has_to_quote() {
    let home = tempfile::tempdir().expect("tempdir");
    let socket = home.path().join("s");
    let listener = UnixListener::bind(&socket).expect("bound");
    let (asked, mut questions) = mpsc::unbounded_channel();
    let encode = |text: &str| base64::Engine::encode(&base64::prelude::BASE64_STANDARD, text);
    tokio::spawn(serve(listener, move |question| {
        let _ = asked.send(question.clone());
        let words = question["arguments"]["arg"].to_string();
        let answer = match question["execute"].as_str().unwrap_or_default() {
            "guest-get-osinfo" => json!({ "id": "mswindows" }),
            "guest-exec" if words.contains("SystemRoot") => json!({ "pid": 1 }),
            "guest-exec" if words.contains("powershell") => json!({ "pid": 3 }),
            "guest-exec" => json!({ "pid": 2 }),
            "guest-exec-status" if question["arguments"]["pid"] == 1 => {
                json!({ "exited": true, "exitcode": 0, "out-data": encode("D:\\Windows\r\n") })
            }
            "guest-exec-status" => json!({ "exited": true, "exitcode": 3_221_225_477_i64 }),
            "guest-file-open" => json!(9),
            "guest-file-write" => {
                json!({ "count": question["arguments"]["buf-b64"].as_str().map_or(0, |text| base64::Engine::decode(&base64::prelude::BASE64_STANDARD, text).map_or(0, |bytes| bytes.len())) })
            }
            "guest-file-read" => json!({ "count": 0, "buf-b64": "", "eof": true }),
            _ => json!({}),
        };
        format!("{}\n", json!({ "return": answer }))
    }));
    let agent = agent_at(&socket);
    let (ended, _) = run(&agent, RemoteCommand::new("Get-Date; \"it's\"")).await;
    // Nothing said that the command began, so its status says nothing.
    assert!(ended.expect_err("never began").to_string().contains("-1073741819"), "the code as Windows shows it");
    drop(agent);
    let mut all = Vec::new();
    while let Ok(question) = questions.try_recv() {
        all.push(question);
    }
    let run = all.iter().find(|question| question.to_string().contains("powershell.exe")).expect("run");
    let words: Vec<&str> =
        run["arguments"]["arg"].as_array().expect("words").iter().filter_map(Value::as_str).collect();
    assert_eq!(words[..3], ["/d", "/c", "powershell.exe"]);
    assert!(words.iter().all(|word| !word.contains([' ', '"', '\'', '%', '^', '&'])), "{words:?}");
    assert!(words[words.len() - 1].starts_with("D:\\Windows\\Temp\\vmdeck-"), "{words:?}");
    assert!(words.join(" ").len() < 8000, "cmd's limit is 8191");
}

proptest! {
    #[test]
    fn any_answer_is_survived(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().expect("runtime");
        runtime.block_on(async {
            let home = tempfile::tempdir().expect("tempdir");
            let socket = home.path().join("s");
            let listener = UnixListener::bind(&socket).expect("bound");
            tokio::spawn(async move {
                let (mut stream, _) = listener.accept().await.expect("a client");
                let _ = stream.write_all(&bytes).await;
            });
            assert!(AgentClient::new(socket).start("/bin/true", &[]).await.is_err());
        });
    }
}
