//! Logging in: the key, then the agent's keys, then the password; what was refused is told, with the server's own words.
//!
//! Runs only after the host key has matched. What may come later (a first-boot service writes the key) is worth another
//! connection; what will not change is not.

use super::hostkey::{self, Checker, ServerWords};
use russh::{
    client::{AuthResult, Handle, KeyboardInteractiveAuthResponse as Interactive},
    keys::{
        self, PrivateKeyWithHashAlg,
        agent::{AgentIdentity, client::AgentClient},
    },
};
use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use vmdeck_model::{
    error::{Fault, Result},
    guest::Guest,
    key::Options,
    secret::Secret,
};

/// How often a refused password is tried in all: it may be set late in the first boot, and accounts get locked.
const PASSWORD_TRIES: u32 = 10;
/// Most rounds of questions in one interactive login.
const ROUNDS: usize = 4;

/// What one machine has answered so far, over all connections to it.
#[derive(Debug, Default)]
pub(super) struct LoginHistory {
    passwords: u32,
    /// After how many keys of the agent the server ended the login.
    agent_cut: Option<usize>,
}

/// Why a login failed.
#[derive(Debug)]
pub(super) enum LoginError {
    /// The guest may know this key or password later.
    NotYet {
        /// What it refused.
        fault: Fault,
        /// The pause before the next login.
        pause: Duration,
    },
    /// Another connection is needed for the next way to log in.
    Again(Fault),
    /// Another attempt cannot help.
    Never(Fault),
}

/// One login over a fresh connection.
pub(super) struct LoginAttempt<'a> {
    pub(super) handle: &'a mut Handle<Checker>,
    pub(super) options: &'a Options,
    /// The files of keys, tried in this order.
    pub(super) keys: &'a [PathBuf],
    /// Whether they were only found: then one that cannot be read is passed over.
    pub(super) finds_keys: bool,
    pub(super) guest: &'a Guest,
    pub(super) words: &'a ServerWords,
    pub(super) history: &'a mut LoginHistory,
}

/// What a way to log in came to.
enum LoginAnswer {
    Accepted,
    /// Refused, as part of a sentence.
    Refused(String),
}

impl LoginAttempt<'_> {
    /// Tries each way that the options name.
    pub(super) async fn run(&mut self) -> Result<(), LoginError> {
        let user = self.options.text("user").unwrap_or_default().to_owned();
        let mut refused = Vec::new();
        let mut takes = String::new();
        for path in self.keys {
            let answer = match self.by_key(&user, path, &mut takes).await {
                Err(LoginError::Never(fault)) if self.finds_keys => {
                    LoginAnswer::Refused(format!("nothing, since {fault}"))
                }
                answer => answer?,
            };
            match answer {
                LoginAnswer::Accepted => return Ok(()),
                LoginAnswer::Refused(what) => refused.push(what),
            }
        }
        // What cannot be used does not end the login where there are other ways.
        let has_password = self.options.secret("password").is_some() || self.finds_keys;
        if self.options.flag("agent") {
            match self.history.agent_cut {
                None => match self.by_agent(&user, has_password).await? {
                    LoginAnswer::Accepted => return Ok(()),
                    LoginAnswer::Refused(what) => refused.push(what),
                },
                Some(count) => refused.push(format!("the first {count} keys of the ssh-agent, and ended the login")),
            }
        }
        if let Some(password) = self.options.secret("password").cloned() {
            match self.by_password(&user, &password, &mut takes).await? {
                LoginAnswer::Accepted => return Ok(()),
                LoginAnswer::Refused(what) => refused.push(what),
            }
        }
        let fault = self.refusal(&user, &refused, &takes);
        let only_password = self.keys.is_empty() && !self.options.flag("agent");
        if only_password && self.history.passwords >= PASSWORD_TRIES {
            return Err(LoginError::Never(fault.permanent()));
        }
        let pause = if only_password { u64::from(self.history.passwords).div_ceil(2) } else { 1 };
        Err(LoginError::NotYet { fault, pause: Duration::from_secs(pause.clamp(1, 5)) })
    }

    fn refusal(&self, user: &str, refused: &[String], takes: &str) -> Fault {
        let (guest, key) = (&self.guest.id, &self.guest.key);
        let takes = if takes.is_empty() { String::new() } else { format!(" (it takes: {takes})") };
        Fault::infra(format!("cannot log in to guest `{guest}` as `{user}`"))
            .because(format!("it refused {}{takes}{}", refused.join(" and "), self.words.as_clause()))
            .hint(format!("check `guests.{key}.ssh.user`, and that the guest knows this key or password"))
    }

    async fn by_key(&mut self, user: &str, path: &Path, takes: &mut String) -> Result<LoginAnswer, LoginError> {
        let phrase = self.options.secret("key_passphrase").map(|s| s.expose().to_owned());
        let key = vmdeck_files::read_text(path, vmdeck_files::SMALL)
            .map_err(keys::Error::from)
            .and_then(|text| keys::decode_secret_key(&text, phrase.as_deref()))
            .map_err(|e| LoginError::Never(bad_key(path, phrase.is_some(), &e)))?;
        let key = Arc::new(key);
        let hash = self.rsa_hash(key.algorithm().is_rsa()).await?;
        // A certificate beside the key is offered first, as OpenSSH does.
        if let Some(certificate) = certificate_of(path)? {
            let answer = self.handle.authenticate_openssh_cert(user, Arc::clone(&key), certificate).await;
            if answer.map_err(|e| self.lost(&e))?.success() {
                return Ok(LoginAnswer::Accepted);
            }
        }
        let answer = self.handle.authenticate_publickey(user, PrivateKeyWithHashAlg::new(key, hash)).await;
        let answer = answer.map_err(|e| self.lost(&e))?;
        if answer.success() {
            return Ok(LoginAnswer::Accepted);
        }
        *takes = methods(&answer);
        Ok(LoginAnswer::Refused(format!("the key `{}`", path.display())))
    }

    async fn by_agent(&mut self, user: &str, has_password: bool) -> Result<LoginAnswer, LoginError> {
        let cannot = |e: &dyn std::fmt::Display| {
            Fault::user("cannot use the ssh-agent")
                .because(e)
                .hint("start one and set SSH_AUTH_SOCK, or set `agent = false`")
        };
        // Without an agent there may still be a password.
        let unusable = |fault: Fault| {
            if has_password {
                Ok(LoginAnswer::Refused(format!("nothing, since {fault}")))
            } else {
                Err(LoginError::Never(fault))
            }
        };
        let mut agent = match AgentClient::connect_env().await {
            Ok(agent) => agent,
            Err(e) => return unusable(cannot(&e)),
        };
        let identities = match agent.request_identities().await {
            Ok(identities) => identities,
            Err(e) => return unusable(cannot(&e)),
        };
        if identities.is_empty() {
            return unusable(cannot(&"it holds no keys"));
        }
        // Only the one that is chosen, where one is.
        let chosen = self.options.text("agent_key").map(str::to_owned);
        let chosen = chosen.or_else(|| self.options.path("agent_key").map(|path| path.display().to_string()));
        let chosen = chosen.map(|text| hostkey::read(&text)).transpose();
        let chosen =
            chosen.map_err(|why| LoginError::Never(Fault::user(format!("cannot read `ssh.agent_key`: {why}"))))?;
        let fits = |identity: &&AgentIdentity| {
            let key = identity.public_key();
            chosen.as_ref().is_none_or(|chosen| chosen.iter().any(|one| one.key_data() == key.key_data()))
        };
        let identities: Vec<&AgentIdentity> = identities.iter().filter(fits).collect();
        if identities.is_empty() {
            return unusable(cannot(&"it does not hold the key of `ssh.agent_key`"));
        }
        for (index, identity) in identities.iter().enumerate() {
            let key = identity.public_key().into_owned();
            // The agent does not say which hash an RSA key is to sign with.
            let hash = self.rsa_hash(key.algorithm().is_rsa()).await?;
            let answer = self.handle.authenticate_publickey_with(user, key, hash, &mut agent).await;
            match answer {
                Ok(answer) if answer.success() => return Ok(LoginAnswer::Accepted),
                Ok(_) if !self.handle.is_closed() => {}
                Err(e) if !self.handle.is_closed() && !self.words.is_disconnected() => {
                    return unusable(cannot(&e));
                }
                Ok(_) | Err(_) => return Err(self.cut_off(index + 1, identities.len(), has_password)),
            }
        }
        Ok(LoginAnswer::Refused(format!("every one of the {} keys of the ssh-agent", identities.len())))
    }

    /// The server counts refused keys, and ends the login after some.
    fn cut_off(&mut self, offered: usize, all: usize, has_password: bool) -> LoginError {
        self.history.agent_cut = Some(offered);
        let (guest, key) = (&self.guest.id, &self.guest.key);
        let fault = Fault::infra(format!("cannot log in to guest `{guest}`"))
            .because(format!(
                "the server ended the login after {offered} of the {all} keys of the ssh-agent{}",
                self.words.as_clause()
            ))
            .hint(format!("name the right key in `guests.{key}.ssh.key`, or let the agent hold fewer keys"))
            .permanent();
        if has_password { LoginError::Again(fault) } else { LoginError::Never(fault) }
    }

    /// Gives the password in the way that the server takes it: as such, or as the answer to its one question.
    async fn by_password(
        &mut self,
        user: &str,
        secret: &Secret,
        takes: &mut String,
    ) -> Result<LoginAnswer, LoginError> {
        if self.history.passwords >= PASSWORD_TRIES {
            return Ok(LoginAnswer::Refused(format!("the password {PASSWORD_TRIES} times")));
        }
        self.history.passwords += 1;
        let known = !takes.is_empty();
        if !known || takes.contains("password") {
            let answer = self.handle.authenticate_password(user, secret.expose()).await;
            let answer = answer.map_err(|e| self.lost(&e))?;
            if answer.success() {
                return Ok(LoginAnswer::Accepted);
            }
            *takes = methods(&answer);
        }
        if !takes.contains("keyboard-interactive") {
            return Ok(LoginAnswer::Refused("the password".into()));
        }
        let start = self.handle.authenticate_keyboard_interactive_start(user, None::<String>).await;
        let mut answer = start.map_err(|e| self.lost(&e))?;
        for _ in 0..ROUNDS {
            answer = match answer {
                Interactive::Success => return Ok(LoginAnswer::Accepted),
                Interactive::Failure { remaining_methods, .. } => {
                    *takes = remaining_methods.iter().map(String::from).collect::<Vec<_>>().join(", ");
                    return Ok(LoginAnswer::Refused("the password (asked for by keyboard-interactive)".into()));
                }
                Interactive::InfoRequest { name, instructions, prompts } => {
                    self.words.add(&format!("{name} {instructions}"));
                    let replies = match &prompts[..] {
                        [] => Vec::new(),
                        [one] if !one.echo => vec![secret.expose().to_owned()],
                        several => {
                            let asked: Vec<&str> = several.iter().map(|prompt| prompt.prompt.trim()).collect();
                            return Ok(LoginAnswer::Refused(format!(
                                "the password alone: it asks for more by keyboard-interactive ({})",
                                vmdeck_model::text::Clean::from_text(&asked.join(", "))
                            )));
                        }
                    };
                    let next = self.handle.authenticate_keyboard_interactive_respond(replies).await;
                    next.map_err(|e| self.lost(&e))?
                }
            };
        }
        Ok(LoginAnswer::Refused("the password, and asks again and again".into()))
    }

    async fn rsa_hash(&self, is_rsa: bool) -> Result<Option<keys::HashAlg>, LoginError> {
        if !is_rsa {
            return Ok(None);
        }
        self.handle.best_supported_rsa_hash().await.map(Option::flatten).map_err(|e| self.lost(&e))
    }

    fn lost(&self, error: &dyn std::fmt::Display) -> LoginError {
        let because = format!("the connection was lost: {error}{}", self.words.as_clause());
        let fault = Fault::infra(format!("cannot log in to guest `{}`", self.guest.id)).because(because);
        LoginError::NotYet { fault, pause: Duration::from_secs(1) }
    }
}

/// Returns the certificate of a key: the file with the name of the key and `-cert.pub`, if there is one.
fn certificate_of(key: &Path) -> Result<Option<keys::Certificate>, LoginError> {
    let mut path = key.as_os_str().to_owned();
    path.push("-cert.pub");
    let path = Path::new(&path);
    if !path.is_file() {
        return Ok(None);
    }
    let cannot = |e: &dyn std::fmt::Display| {
        LoginError::Never(Fault::user(format!("cannot read the certificate `{}`", path.display())).because(e))
    };
    let text = vmdeck_files::read_text(path, vmdeck_files::SMALL).map_err(|e| cannot(&e))?;
    keys::Certificate::from_openssh(text.trim()).map(Some).map_err(|e| cannot(&e))
}

fn methods(answer: &AuthResult) -> String {
    match answer {
        AuthResult::Failure { remaining_methods, .. } => {
            remaining_methods.iter().map(String::from).collect::<Vec<_>>().join(", ")
        }
        AuthResult::Success => String::new(),
    }
}

fn bad_key(path: &Path, has_phrase: bool, error: &keys::Error) -> Fault {
    let hint = match (error, has_phrase) {
        (keys::Error::KeyIsEncrypted, _) => "set `ssh.key_passphrase`".to_owned(),
        (_, true) => "check `ssh.key_passphrase`".to_owned(),
        _ => format!("check that `{}` is a private key in OpenSSH format", path.display()),
    };
    Fault::user(format!("cannot read the key `{}`", path.display())).because(error).hint(hint)
}
