//! NTLMv2 on the client's side (MS-NLMP): the three messages, their MIC, channel bindings, and the sealing of messages with the
//! session that they set up. No NTLMv1, no LM, no anonymous logon.
//!
//! How the messages travel is `connection`'s matter.

use hmac::{Hmac, Mac};
use md4::Md4;
use md5::{Digest, Md5};
use rc4::{KeyInit, Rc4, StreamCipher};
use std::time::UNIX_EPOCH;

use crate::host::{clock, random};

/// `NTLMSSP_NEGOTIATE_` 56, `KEY_EXCH`, 128, `VERSION`, `TARGET_INFO`, `EXTENDED_SESSIONSECURITY`, `ALWAYS_SIGN`, `NTLM`, `SEAL`, `SIGN`,
/// `REQUEST_TARGET` and `UNICODE`.
const FLAGS: u32 = 0xe288_8235;
/// `KEY_EXCH`, `EXTENDED_SESSIONSECURITY`, `SEAL` and `SIGN`: without them nothing is sealed.
const NEEDED: u32 = 0x4008_0030;
/// The version that we say we are: 10.0, build 17763, NTLM revision 15.
const VERSION: [u8; 8] = [10, 0, 0x63, 0x45, 0, 0, 0, 15];
/// From 1601, where Windows counts from, to 1970, in units of 100 ns.
const EPOCH: u64 = 116_444_736_000_000_000;
/// Where the fields of the third message begin.
const FIELDS: u32 = 88;

/// Why a logon by NTLM cannot go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("NTLM: {0}")]
pub(super) struct NtlmError(&'static str);

/// How a name is put in capitals, which both sides must do alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Capitals {
    /// As Windows does it: character by character, so that a sharp s stays what it is.
    Simple,
    /// As other servers do it, by Unicode's full rules.
    Full,
}

/// Who logs on, and to what.
#[derive(Clone, Copy)]
pub(super) struct NtlmLogon<'a> {
    /// The user as the config names it: `name`, `DOMAIN\name` or `name@domain`.
    pub(super) user: &'a str,
    pub(super) password: &'a str,
    pub(super) capitals: Capitals,
    /// The service, such as `HTTP/host`.
    pub(super) target: &'a str,
    /// The hash of the server's certificate, over TLS (RFC 5929, `tls-server-end-point`).
    pub(super) certificate: Option<&'a [u8]>,
}

/// Returns the first message, which is the same for everyone.
pub(super) fn negotiate() -> Vec<u8> {
    let mut message = b"NTLMSSP\0\x01\0\0\0".to_vec();
    message.extend(FLAGS.to_le_bytes());
    message.extend([0; 16]);
    message.extend(VERSION);
    message
}

/// Answers a challenge: returns the third message, and the session that both sides have from then on.
pub(super) fn authenticate(logon: NtlmLogon<'_>, challenge: &[u8]) -> Result<(Vec<u8>, NtlmSession), NtlmError> {
    answer(logon, &Challenge::read(challenge)?, challenge, random::u64().to_le_bytes(), random::u128().to_le_bytes())
}

/// What the server's challenge says.
struct Challenge<'a> {
    flags: u32,
    nonce: &'a [u8],
    /// The pairs of the target information, without their end and without those that a client says.
    info: Vec<u8>,
    time: [u8; 8],
}

impl<'a> Challenge<'a> {
    fn read(bytes: &'a [u8]) -> Result<Self, NtlmError> {
        let short = NtlmError("the challenge is too short");
        if bytes.get(..12) != Some(b"NTLMSSP\0\x02\0\0\0") {
            return Err(NtlmError("the server's answer is no challenge"));
        }
        let word = |at: usize| Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
        let half = |at: usize| Some(u16::from_le_bytes(bytes.get(at..at + 2)?.try_into().ok()?));
        let (flags, length, at) = match (word(20), half(40), word(44)) {
            (Some(flags), Some(length), Some(at)) => (flags & FLAGS, usize::from(length), at as usize),
            _ => return Err(short),
        };
        if flags & NEEDED != NEEDED {
            return Err(NtlmError("the server offers no sealing with extended session security"));
        }
        let mut rest = at.checked_add(length).and_then(|end| bytes.get(at..end)).ok_or(short)?;
        let (mut info, mut time) = (Vec::new(), None);
        while let [a, b, c, d, after @ ..] = rest {
            let (id, length) = (u16::from_le_bytes([*a, *b]), usize::from(u16::from_le_bytes([*c, *d])));
            let value = after.get(..length).ok_or(NtlmError("its target information is broken"))?;
            match id {
                0 => break,
                // Flags, target name and channel bindings are the client's to say.
                6 | 9 | 10 => {}
                _ => info.extend_from_slice(&rest[..4 + length]),
            }
            if id == 7 {
                time = Some(value.try_into().map_err(|_| NtlmError("its time is broken"))?);
            }
            rest = &after[length..];
        }
        Ok(Self { flags, nonce: &bytes[24..32], info, time: time.unwrap_or_else(now) })
    }
}

fn now() -> [u8; 8] {
    let since = clock::system().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos() / 100;
    (u64::try_from(since).unwrap_or_default() + EPOCH).to_le_bytes()
}

fn answer(
    logon: NtlmLogon<'_>,
    challenge: &Challenge<'_>,
    raw: &[u8],
    nonce: [u8; 8],
    mut key: [u8; 16],
) -> Result<(Vec<u8>, NtlmSession), NtlmError> {
    let (domain, user) = logon.user.split_once('\\').unwrap_or(("", logon.user));
    // By `.` a person means the machine itself, which has the empty name here.
    let domain = if domain == "." { "" } else { domain };
    let target = utf16(logon.target);
    let mut info = challenge.info.clone();
    let bindings = logon.certificate.map_or([0; 16], channel_bindings);
    for (id, value) in [(6u16, &2u32.to_le_bytes()[..]), (10, &bindings), (9, &target), (0, &[])] {
        let length = u16::try_from(value.len()).map_err(|_| NtlmError("a name is too long"))?;
        info.extend(id.to_le_bytes());
        info.extend(length.to_le_bytes());
        info.extend(value);
    }
    let response_key = ntowfv2(&upper(user, logon.capitals), domain, logon.password);
    let mut temp = vec![1, 1, 0, 0, 0, 0, 0, 0];
    temp.extend(challenge.time);
    temp.extend(nonce);
    temp.extend([0; 4]);
    temp.extend(&info);
    temp.extend([0; 4]);
    let proof = hmac_md5(&response_key, &[challenge.nonce, &temp]);
    let session = NtlmSession::new(&key);
    let mic_key = key;
    rc4(&hmac_md5(&response_key, &[&proof])).apply_keystream(&mut key);

    let response = [&proof[..], &temp].concat();
    let fields: [&[u8]; 6] = [&[0; 24], &response, &utf16(domain), &utf16(user), &[], &key];
    let mut message = b"NTLMSSP\0\x03\0\0\0".to_vec();
    let mut offset = FIELDS;
    for field in fields {
        let length = u16::try_from(field.len()).map_err(|_| NtlmError("a name is too long"))?;
        message.extend(length.to_le_bytes().repeat(2));
        message.extend(offset.to_le_bytes());
        offset += u32::from(length);
    }
    message.extend(challenge.flags.to_le_bytes());
    message.extend(VERSION);
    let mic_at = message.len();
    message.extend([0; 16]);
    message.extend(fields.concat());
    let mic = hmac_md5(&mic_key, &[&negotiate(), raw, &message]);
    message[mic_at..mic_at + 16].copy_from_slice(&mic);
    Ok((message, session))
}

/// Returns the MD5 of the bindings to a channel whose end has this certificate (RFC 2744, `gss_channel_bindings_struct`).
fn channel_bindings(hash: &[u8]) -> [u8; 16] {
    let data = [b"tls-server-end-point:".as_slice(), hash].concat();
    let length = u32::try_from(data.len()).unwrap_or_default().to_le_bytes();
    Md5::new().chain_update([0; 16]).chain_update(length).chain_update(data).finalize().into()
}

/// Returns the key of a user, whose name is in capitals.
fn ntowfv2(user: &str, domain: &str, password: &str) -> [u8; 16] {
    hmac_md5(&Md4::digest(utf16(password)), &[&utf16(user), &utf16(domain)])
}

fn upper(name: &str, capitals: Capitals) -> String {
    if capitals == Capitals::Full {
        return name.to_uppercase();
    }
    let one = |c: char| {
        let mut upper = c.to_uppercase();
        match (upper.next(), upper.next()) {
            (Some(only), None) => only,
            _ => c,
        }
    };
    name.chars().map(one).collect()
}

fn utf16(text: &str) -> Vec<u8> {
    text.encode_utf16().flat_map(u16::to_le_bytes).collect()
}

fn hmac_md5(key: &[u8], parts: &[&[u8]]) -> [u8; 16] {
    let mut mac = <Hmac<Md5> as hmac::KeyInit>::new_from_slice(key).expect("HMAC takes a key of any length");
    for part in parts {
        mac.update(part);
    }
    mac.finalize().into_bytes().into()
}

fn rc4(key: &[u8; 16]) -> Rc4 {
    Rc4::new_from_slice(key).expect("RC4 takes a key of 16 bytes")
}

/// The keys of a connection that is logged on. Each message moves the key streams on, so the messages of a connection are sealed
/// and unsealed strictly in turn.
pub(super) struct NtlmSession {
    sent: Direction,
    received: Direction,
}

/// The keys of one direction.
struct Direction {
    signing: [u8; 16],
    sealing: Rc4,
    sequence: u32,
}

impl NtlmSession {
    fn new(key: &[u8; 16]) -> Self {
        Self { sent: Direction::new(key, "client-to-server"), received: Direction::new(key, "server-to-client") }
    }

    /// Encrypts a message in place; returns the signature that goes before it.
    pub(super) fn seal(&mut self, message: &mut [u8]) -> [u8; 16] {
        let plain = message.to_vec();
        self.sent.sealing.apply_keystream(message);
        self.sent.sign(&plain)
    }

    /// Decrypts a message in place; an error means that its signature is not the server's.
    pub(super) fn unseal(&mut self, signature: &[u8], message: &mut [u8]) -> Result<(), NtlmError> {
        self.received.sealing.apply_keystream(message);
        let expected = self.received.sign(message);
        let differs = expected.iter().zip(signature).fold(0, |all, (a, b)| all | (a ^ b)) != 0;
        if differs || signature.len() != expected.len() {
            return Err(NtlmError("the signature of the server's answer is wrong"));
        }
        Ok(())
    }
}

impl Direction {
    fn new(key: &[u8; 16], way: &str) -> Self {
        let derive = |use_: &str| -> [u8; 16] {
            let magic = format!("session key to {way} {use_} key magic constant\0");
            Md5::new().chain_update(key).chain_update(magic).finalize().into()
        };
        Self { signing: derive("signing"), sealing: rc4(&derive("sealing")), sequence: 0 }
    }

    fn sign(&mut self, plain: &[u8]) -> [u8; 16] {
        let sequence = self.sequence.to_le_bytes();
        let sum = hmac_md5(&self.signing, &[&sequence, plain]);
        let mut signature = [0; 16];
        signature[0] = 1;
        signature[4..12].copy_from_slice(&sum[..8]);
        self.sealing.apply_keystream(&mut signature[4..12]);
        signature[12..].copy_from_slice(&sequence);
        self.sequence = self.sequence.wrapping_add(1);
        signature
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    // MS-NLMP 4.2.1 and 4.2.4: user "User", domain "Domain", password "Password".
    #[test]
    fn the_key_of_the_specification_comes_out() {
        let key = ntowfv2("USER", "Domain", "Password");
        assert_eq!(
            key,
            [0x0c, 0x86, 0x8a, 0x40, 0x3b, 0xfd, 0x7a, 0x93, 0xa3, 0x00, 0x1e, 0xf2, 0x2e, 0xf0, 0x2e, 0x3f]
        );
    }

    // MS-NLMP 4.2.4.4: a session key of sixteen 0x55, "Plaintext" sealed as the first message.
    #[test]
    fn the_sealed_message_of_the_specification_comes_out() {
        let mut session = NtlmSession::new(&[0x55; 16]);
        let mut data = utf16("Plaintext");
        let signature = session.seal(&mut data);
        let wanted = [
            0x54, 0xe5, 0x01, 0x65, 0xbf, 0x19, 0x36, 0xdc, 0x99, 0x60, 0x20, 0xc1, 0x81, 0x1b, 0x0f, 0x06, 0xfb, 0x5f,
        ];
        assert_eq!(data, wanted);
        assert_eq!(signature, [1, 0, 0, 0, 0x7f, 0xb3, 0x8e, 0xc5, 0xc5, 0x5d, 0x49, 0x76, 0, 0, 0, 0]);
    }

    /// Returns the server's side of a session.
    fn mirrored(key: &[u8; 16]) -> NtlmSession {
        let NtlmSession { sent, received } = NtlmSession::new(key);
        NtlmSession { sent: received, received: sent }
    }

    #[test]
    fn what_is_changed_on_its_way_is_not_taken() {
        for at in 0..9 {
            let (mut ours, mut theirs) = (NtlmSession::new(&[7; 16]), mirrored(&[7; 16]));
            let mut message = b"an answer".to_vec();
            let mut signature = theirs.seal(&mut message);
            assert!(ours.unseal(&signature[..15], &mut message.clone()).is_err(), "cut short");
            let mut ours = NtlmSession::new(&[7; 16]);
            if at % 2 == 0 {
                message[at] ^= 1;
            } else {
                signature[at + 3] ^= 1;
            }
            assert!(ours.unseal(&signature, &mut message).is_err(), "{at}");
        }
    }

    #[test]
    fn names_are_put_in_capitals_as_windows_does_and_as_others_do() {
        assert_eq!(upper("müller-ß.ǆ", Capitals::Simple), "MÜLLER-ß.Ǆ");
        assert_eq!(upper("müller-ß.ǆ", Capitals::Full), "MÜLLER-SS.Ǆ");
    }

    #[test]
    fn a_server_without_sealing_is_left() {
        let mut challenge = b"NTLMSSP\0\x02\0\0\0".to_vec();
        challenge.resize(48, 0);
        let logon =
            NtlmLogon { user: "u", password: "p", capitals: Capitals::Simple, target: "HTTP/h", certificate: None };
        let error = authenticate(logon, &challenge).map(|_| ()).expect_err("plain");
        assert!(error.to_string().contains("no sealing"), "{error}");
    }

    proptest! {
        #[test]
        fn both_sides_understand_each_other(messages in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 1..8)) {
            let (mut ours, mut theirs) = (NtlmSession::new(&[9; 16]), mirrored(&[9; 16]));
            for message in messages {
                let mut sealed = message.clone();
                let signature = ours.seal(&mut sealed);
                theirs.unseal(&signature, &mut sealed).expect("good");
                prop_assert_eq!(&sealed, &message);
                let signature = theirs.seal(&mut sealed);
                ours.unseal(&signature, &mut sealed).expect("good");
                prop_assert_eq!(&sealed, &message);
            }
        }

        #[test]
        fn no_challenge_makes_it_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..200), real in any::<bool>()) {
            if real {
                bytes.splice(..bytes.len().min(12), *b"NTLMSSP\0\x02\0\0\0");
                if let Some(flags) = bytes.get_mut(20..24) {
                    flags.copy_from_slice(&FLAGS.to_le_bytes());
                }
            }
            let logon = NtlmLogon { user: "d\\u", password: "p", capitals: Capitals::Simple, target: "HTTP/h", certificate: Some(&[1; 32]) };
            let _ = authenticate(logon, &bytes);
        }
    }
}
