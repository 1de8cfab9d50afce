//! The session against an agent that is played here: what a guest may say, and in which order, is its own matter.

use super::{link::Link, session::SerialSession};
use crate::{
    command::{Collected, CommandExit, Input, RemoteCommand},
    transport::session::CommandRunner,
};
use std::{path::PathBuf, sync::Arc, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{UnixListener, UnixStream},
};
use tokio_util::sync::CancellationToken;
use vmdeck_guest::wire::{Body, CONTENT_MAX, CommandRequest, Decoder, Message, User, find_greeting, greeting};
use vmdeck_model::error::{Blame, Fault};

/// An agent that is played.
struct Played {
    stream: UnixStream,
    decoder: Decoder,
}

impl Played {
    /// Answers a greeting, after some noise of an earlier connection.
    async fn greet(mut stream: UnixStream, noise: &[u8]) -> Self {
        let mut seen = Vec::new();
        let nonce = loop {
            stream.read_buf(&mut seen).await.expect("readable");
            if let Some((nonce, _)) = find_greeting(&seen) {
                break nonce;
            }
        };
        stream.write_all(noise).await.expect("written");
        stream.write_all(greeting(&nonce).as_bytes()).await.expect("written");
        Self { stream, decoder: Decoder::new(CONTENT_MAX) }
    }

    /// Returns the next message; `None` = the host has gone.
    async fn next(&mut self) -> Option<Message> {
        loop {
            if let Some(message) = self.decoder.next_message().expect("the host speaks well") {
                return Some(message);
            }
            let mut piece = vec![0; 4096];
            match self.stream.read(&mut piece).await {
                Ok(0) | Err(_) => return None,
                Ok(length) => self.decoder.feed(&piece[..length]),
            }
        }
    }

    async fn command(&mut self) -> (u32, CommandRequest) {
        loop {
            let message = self.next().await.expect("a command");
            if let Body::Run(request) = message.body {
                return (message.id, *request);
            }
        }
    }

    async fn say(&mut self, id: u32, body: Body) {
        self.stream.write_all(&Message { id, body }.to_bytes()).await.expect("written");
    }
}

/// Returns the marks that a real shell would write for this command, by doing what its text says.
fn marks(script: &str) -> (Vec<u8>, Vec<u8>) {
    let nonce = script.split("[out-%s]' ").nth(1).and_then(|rest| rest.split(';').next()).expect("the mark's nonce");
    (format!("[out-{nonce}]").into_bytes(), format!("[run-{nonce} 7]").into_bytes())
}

async fn pair(noise: &'static [u8]) -> (SerialSession, Played, tempfile::TempDir) {
    let home = tempfile::tempdir().expect("tempdir");
    let path: PathBuf = home.path().join("agent.sock");
    let listener = UnixListener::bind(&path).expect("socket");
    let agent = tokio::spawn(async move { Played::greet(listener.accept().await.expect("host").0, noise).await });
    let link = Link::open(&path).await.expect("greeted");
    (SerialSession::new(link, User::Root), agent.await.expect("greeted"), home)
}

/// Runs a command while `play` is its agent; returns how it ended and what it wrote.
async fn run<F>(
    command: RemoteCommand,
    play: impl FnOnce(Played, u32, CommandRequest) -> F + Send + 'static,
) -> (Result<CommandExit, Fault>, Collected)
where
    F: Future<Output = ()> + Send + 'static,
{
    let (session, mut agent, _home) = pair(b"left [out-00] by\nvmdeck-serial 1 beef\nan earlier host").await;
    let played = tokio::spawn(async move {
        let (id, request) = agent.command().await;
        play(agent, id, request).await;
    });
    let mut output = Collected::default();
    let end = session.run(&command, &mut output, &CancellationToken::new()).await;
    drop(session);
    played.await.expect("played to the end");
    (end, output)
}

#[tokio::test]
async fn what_is_before_the_marks_is_no_output_and_the_streams_stay_apart() {
    let (end, output) = run(RemoteCommand::new("x"), |mut agent, id, request| async move {
        let (out, run) = marks(request.script.as_deref().expect("a script"));
        agent.say(id, Body::Stdout([b"motd ", &out[..], b"own"].concat())).await;
        agent.say(id + 9, Body::Stdout(b"of nobody".to_vec())).await;
        agent.say(id, Body::Stderr([&run[..], b"complaint"].concat())).await;
        agent.say(id, Body::Exited(3)).await;
    })
    .await;
    assert_eq!(end, Ok(CommandExit::Code(3)));
    assert_eq!((&output.stdout[..], &output.stderr[..]), (&b"own"[..], &b"complaint"[..]));
}

#[tokio::test]
async fn only_a_status_is_an_end_and_a_lost_connection_is_infra() {
    type Last = Option<Body>;
    let begun: [(Last, Result<CommandExit, &str>); 5] = [
        (Some(Body::Killed(9)), Ok(CommandExit::Signal("KILL".into()))),
        (Some(Body::Refused("no shell".into())), Err("cannot start the command in the guest: no shell")),
        (Some(Body::Resize(1, 1)), Err("the connection to the agent in the guest was lost")),
        (None, Err("the connection to the agent in the guest was lost")),
        (Some(Body::Exited(0)), Ok(CommandExit::Code(0))),
    ];
    for (last, wanted) in begun {
        let shown = format!("{last:?}");
        let (end, _) = run(RemoteCommand::new("x"), |mut agent, id, request| async move {
            let (out, run) = marks(request.script.as_deref().expect("a script"));
            agent.say(id, Body::Stdout(out)).await;
            agent.say(id, Body::Stderr(run)).await;
            if let Some(last) = last {
                agent.say(id, last).await;
            }
        })
        .await;
        match (end, wanted) {
            (Ok(exit), Ok(wanted)) => assert_eq!(exit, wanted),
            (Err(fault), Err(why)) => {
                assert!(fault.to_string().contains(why), "{shown}: {fault}");
                assert_eq!(fault.blame(), Blame::Infra, "{shown}");
            }
            (end, _) => panic!("{shown}: {end:?}"),
        }
    }
}

#[tokio::test]
async fn a_command_that_never_began_is_no_exit_whatever_its_status() {
    let (end, _) = run(RemoteCommand::new("x"), |mut agent, id, _| async move {
        agent.say(id, Body::Stderr(b"cannot enter the root".to_vec())).await;
        agent.say(id, Body::Exited(0)).await;
    })
    .await;
    let fault = end.expect_err("no mark came");
    assert!(fault.to_string().contains("cannot enter the root"), "{fault}");
}

#[tokio::test]
async fn bytes_that_make_no_sense_end_the_connection() {
    let (end, _) = run(RemoteCommand::new("x"), |mut agent, _, _| async move {
        agent.stream.write_all(&[0xff; 64]).await.expect("written");
        // It does not even have to close it.
        while agent.next().await.is_some() {}
    })
    .await;
    assert_eq!(end.expect_err("lost").blame(), Blame::Infra);
}

#[tokio::test]
async fn input_waits_for_a_command_that_does_not_read_and_then_goes_on() {
    let file = tempfile::tempfile().expect("file");
    let size = 3 * vmdeck_guest::wire::WINDOW;
    std::io::Write::write_all(&mut &file, &vec![7; size]).expect("written");
    let command = RemoteCommand { stdin: Input::Unnamed(Arc::new(file)), ..RemoteCommand::new("x") };
    let (end, _) = run(command, move |mut agent, id, request| async move {
        let (out, run) = marks(request.script.as_deref().expect("a script"));
        agent.say(id, Body::Stdout(out)).await;
        agent.say(id, Body::Stderr(run)).await;
        let (mut came, mut waiting) = (0, 0);
        loop {
            // Nothing more comes once the window is full.
            let next = crate::host::clock::within(Duration::from_millis(200), agent.next()).await;
            match next {
                Some(Some(Message { body: Body::Input(bytes), .. })) => {
                    came += bytes.len();
                    waiting += bytes.len();
                    assert!(waiting <= vmdeck_guest::wire::WINDOW, "{waiting} bytes were sent ahead");
                }
                Some(Some(Message { body: Body::InputEnd, .. })) => break,
                Some(other) => panic!("{other:?}"),
                None => {
                    agent.say(id, Body::InputTaken(u32::try_from(waiting).expect("short"))).await;
                    waiting = 0;
                }
            }
        }
        agent.say(id, Body::Exited(i32::from(came != size))).await;
    })
    .await;
    assert_eq!(end, Ok(CommandExit::Code(0)));
}

#[tokio::test]
async fn a_command_that_nobody_waits_for_is_abandoned() {
    let (session, mut agent, _home) = pair(b"").await;
    let (command, mut output, never) = (RemoteCommand::new("x"), Collected::default(), CancellationToken::new());
    tokio::select! {
        _ = session.run(&command, &mut output, &never) => panic!("it never ends"),
        _ = agent.command() => {}
    }
    loop {
        match agent.next().await.expect("the link is open").body {
            Body::Abandon => break,
            Body::InputEnd => {}
            other => panic!("{other:?}"),
        }
    }
}
