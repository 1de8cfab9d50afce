//! A session against a server that says what a test wants: its commands really run, only their ends are invented.

#![expect(clippy::disallowed_methods, reason = "a server starts processes as it likes")]

use super::{hostkey::Checker, session};
use crate::{
    command::{Collected, CommandExit, RemoteCommand},
    transport::{pin::Pin, session::CommandRunner},
};
use russh::{
    Channel, ChannelId, Sig, client,
    keys::{PrivateKey, ssh_key::private::Ed25519Keypair},
    server::{self, Msg, Session},
};
use std::{collections::BTreeMap, process::Stdio, sync::Arc};
use tokio::{io::AsyncWriteExt, process::Command};
use tokio_util::sync::CancellationToken;
use vmdeck_model::error::{Blame, Result};

/// What the server says of a command that has ended.
#[derive(Clone, Copy, Debug)]
enum Says {
    Truth,
    TruthTwice,
    /// The truth, and then zero.
    ThenZero,
    /// Zero, and then the truth.
    ZeroThenTruth,
    /// The truth, and then that a signal ended it.
    ThenSignal,
    Nothing,
}

#[derive(Clone)]
struct Lying {
    says: Says,
    inputs: BTreeMap<ChannelId, tokio::sync::mpsc::UnboundedSender<Vec<u8>>>,
}

impl server::Handler for Lying {
    type Error = russh::Error;

    async fn auth_none(&mut self, _: &str) -> Result<server::Auth, Self::Error> {
        Ok(server::Auth::Accept)
    }

    async fn channel_open_session(
        &mut self,
        _: Channel<Msg>,
        reply: server::ChannelOpenHandle,
        _: &mut Session,
    ) -> Result<(), Self::Error> {
        reply.accept().await;
        Ok(())
    }

    async fn data(&mut self, channel: ChannelId, data: &[u8], _: &mut Session) -> Result<(), Self::Error> {
        if let Some(input) = self.inputs.get(&channel) {
            let _ = input.send(data.to_vec());
        }
        Ok(())
    }

    async fn channel_eof(&mut self, channel: ChannelId, _: &mut Session) -> Result<(), Self::Error> {
        self.inputs.remove(&channel);
        Ok(())
    }

    async fn exec_request(
        &mut self,
        channel: ChannelId,
        text: &[u8],
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        session.channel_success(channel)?;
        let (input, mut typed) = tokio::sync::mpsc::unbounded_channel::<Vec<u8>>();
        self.inputs.insert(channel, input);
        let (handle, says, text) = (session.handle(), self.says, String::from_utf8_lossy(text).into_owned());
        tokio::spawn(async move {
            let mut command = Command::new("/bin/sh");
            command.args(["-c", &text]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
            let mut child = command.spawn().expect("sh");
            let mut stdin = child.stdin.take().expect("pipe");
            tokio::spawn(async move {
                while let Some(piece) = typed.recv().await {
                    let _ = stdin.write_all(&piece).await;
                }
            });
            let (mut out, mut err) = (child.stdout.take().expect("pipe"), child.stderr.take().expect("pipe"));
            let copy = async |stream: &mut (dyn tokio::io::AsyncRead + Unpin + Send), ext: Option<u32>| {
                let mut buffer = vec![0; 4096];
                while let Ok(n @ 1..) = tokio::io::AsyncReadExt::read(stream, &mut buffer).await {
                    let piece = buffer[..n].to_vec();
                    let _ = match ext {
                        None => handle.data(channel, piece).await,
                        Some(ext) => handle.extended_data(channel, ext, piece).await,
                    };
                }
            };
            tokio::join!(copy(&mut out, None), copy(&mut err, Some(1)));
            let truth = child.wait().await.expect("ended").code().unwrap_or(255).unsigned_abs();
            let told: &[u32] = match says {
                // The first commands, which prove the shell, are told truly.
                _ if !text.contains("case-of-the-test") => &[truth],
                Says::Truth | Says::ThenSignal => &[truth],
                Says::TruthTwice => &[truth, truth],
                Says::ThenZero => &[truth, 0],
                Says::ZeroThenTruth => &[0, truth],
                Says::Nothing => &[],
            };
            for status in told {
                let _ = handle.exit_status_request(channel, *status).await;
            }
            if matches!(says, Says::ThenSignal) && text.contains("case-of-the-test") {
                let _ = handle.exit_signal_request(channel, Sig::KILL, false, String::new(), String::new()).await;
            }
            let _ = handle.eof(channel).await;
            let _ = handle.close(channel).await;
        });
        Ok(())
    }
}

/// Runs `exit 3` at a server that says this.
async fn end_as_told(says: Says) -> Result<CommandExit> {
    let key = PrivateKey::from(Ed25519Keypair::from_seed(&[7; 32]));
    let config = Arc::new(server::Config { keys: vec![key], ..server::Config::default() });
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("port");
    let address = listener.local_addr().expect("address");
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.expect("a client");
        let running = server::run_stream(config, stream, Lying { says, inputs: BTreeMap::new() }).await;
        let _ = running.expect("handshake").await;
    });
    let checker = Checker::new(Vec::new(), Pin::default());
    let mut handle = client::connect(Arc::default(), address, checker).await.expect("connected");
    assert!(handle.authenticate_none("ci").await.expect("answer").success());
    let session = session::open(handle, Vec::new(), vmdeck_model::guest::Os::Linux, None, Some(address))
        .await
        .expect("a session");
    let (mut output, never) = (Collected::default(), CancellationToken::new());
    session.run(&RemoteCommand::new(": case-of-the-test; exit 3".to_owned()), &mut output, &never).await
}

#[tokio::test]
async fn two_different_ends_of_one_command_are_no_verdict() {
    for says in [Says::Truth, Says::TruthTwice] {
        assert_eq!(end_as_told(says).await.expect("told"), CommandExit::Code(3), "{says:?}");
    }
    for says in [Says::ThenZero, Says::ZeroThenTruth, Says::ThenSignal] {
        let fault = end_as_told(says).await.expect_err("contradictory");
        assert_eq!(fault.blame(), Blame::Infra, "{says:?}");
        assert!(fault.to_string().contains("exit 3"), "{says:?}: {fault}");
    }
    assert!(end_as_told(Says::Nothing).await.expect_err("nothing").to_string().contains("without an exit status"));
}
