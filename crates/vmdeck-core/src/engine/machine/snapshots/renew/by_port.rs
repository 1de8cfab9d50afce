//! Talks to the program that waits in a guest.

use super::answer::{EXACT, GuestAnswer, JUMP, Renewed, TRIES, block};
use crate::{backend::contract::GuestPort, host::clock};
use chrono::TimeDelta;
use std::{io, time::Duration};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use vmdeck_model::error::{Fault, Result};

/// How long all of it may take: with timers to be held a slow guest needs seconds.
const LIMIT: Duration = Duration::from_mins(1);
/// The longest line that is taken.
const LINE: u64 = 256;

/// Renews the guest.
pub(super) async fn renew(port: &GuestPort, new_id: &str) -> Result<Renewed> {
    let cannot = || Fault::infra("cannot renew the guest that goes on from a snapshot");
    let mut port = port.lock().await;
    let talked = clock::within(LIMIT, talk(&mut *port, new_id)).await;
    talked.unwrap_or_else(|| Err(io::ErrorKind::TimedOut.into())).map_err(|e| cannot().because(e))
}

/// What is told at the port: twice blocks, each with an answer, and between the two a line with what is to be done besides.
async fn talk<P>(port: &mut P, new_id: &str) -> io::Result<Renewed>
where
    P: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + ?Sized,
{
    let mut port = BufReader::new(port);
    let first = turn(&mut port, TimeDelta::zero()).await?;
    let hold = u8::from(first.error > JUMP);
    port.write_all(&block(None)).await?;
    port.write_all(format!("{hold} {new_id}\n").as_bytes()).await?;
    // What stopping the timers took is gone on both clocks.
    let mut renewed = turn(&mut port, first.error).await?;
    for _ in 1..TRIES {
        if renewed.error.abs() <= EXACT {
            break;
        }
        renewed = turn(&mut port, renewed.error).await?;
    }
    port.write_all(&block(None)).await?;
    match line(&mut port).await?.as_str() {
        "done" => Ok(renewed),
        other => Err(io::Error::new(io::ErrorKind::InvalidData, format!("the guest said `{}`", other.escape_debug()))),
    }
}

async fn turn<P>(port: &mut P, by: TimeDelta) -> io::Result<Renewed>
where
    P: AsyncBufReadExt + tokio::io::AsyncWrite + Unpin,
{
    port.write_all(&block(Some(by))).await?;
    let said = line(port).await?;
    let heard = clock::utc();
    let strange = || io::Error::new(io::ErrorKind::InvalidData, format!("the guest said `{}`", said.escape_debug()));
    let answer = GuestAnswer::of_helper(&said).ok_or_else(strange)?;
    Ok(Renewed { error: heard - answer.time, answer })
}

async fn line<P: AsyncBufReadExt + Unpin>(port: &mut P) -> io::Result<String> {
    let mut out = String::new();
    port.take(LINE).read_line(&mut out).await?;
    match out.strip_suffix('\n') {
        Some(line) => Ok(line.to_owned()),
        None => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use chrono::{DateTime, Utc};

    /// Plays a guest whose clock is this far behind, and which takes so long for each answer to be on its way.
    async fn guest(mut port: tokio::io::DuplexStream, mut behind: TimeDelta) -> (TimeDelta, String) {
        let mut told = String::new();
        let mut ends = 0;
        while ends < 2 {
            let mut block = [0; 48];
            port.read_exact(&mut block).await.expect("block");
            let number = |at: usize| i64::from_le_bytes(block[at..at + 8].try_into().expect("eight"));
            if number(8) < 0 {
                ends += 1;
                if ends == 1 {
                    loop {
                        match port.read_u8().await.expect("line") {
                            b'\n' => break,
                            byte => told.push(char::from(byte)),
                        }
                    }
                }
                continue;
            }
            behind -= TimeDelta::seconds(number(0)) + TimeDelta::nanoseconds(number(8));
            let now: DateTime<Utc> = clock::utc() - behind;
            let words = [now.timestamp(), i64::from(now.timestamp_subsec_nanos())];
            let hex = words.map(|word| {
                format!("{:016x}", word.to_le_bytes().iter().fold(0u64, |all, b| all << 8 | u64::from(*b)))
            });
            port.write_all(format!("{}{:032x}\n", hex.concat(), 7).as_bytes()).await.expect("answer");
        }
        port.write_all(b"done\n").await.expect("end");
        (behind, told)
    }

    #[tokio::test]
    async fn the_clock_is_right_afterwards() {
        for (behind, hold) in
            [(TimeDelta::milliseconds(1500), "0"), (TimeDelta::days(3), "1"), (TimeDelta::seconds(-2), "0")]
        {
            let (mut ours, theirs) = tokio::io::duplex(4096);
            let (renewed, (left, told)) = tokio::join!(talk(&mut ours, "abc"), guest(theirs, behind));
            let renewed = renewed.expect("renewed");
            assert!(left.abs() < EXACT && renewed.error.abs() < EXACT, "{left} {}", renewed.error);
            assert_eq!(told, format!("{hold} abc"));
        }
    }

    #[tokio::test]
    async fn a_guest_that_says_something_else_is_no_guest() {
        for said in ["\n", "x\n", "zz", &"0".repeat(999)] {
            let (mut ours, mut theirs) = tokio::io::duplex(4096);
            theirs.write_all(said.as_bytes()).await.expect("said");
            theirs.shutdown().await.expect("end");
            let talked = tokio::spawn(async move { talk(&mut ours, "abc").await.map(drop) });
            let mut rest = Vec::new();
            let _ = theirs.read_to_end(&mut rest).await;
            assert!(talked.await.expect("ended").is_err(), "{said:?}");
        }
    }
}
