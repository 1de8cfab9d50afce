//! Logging in: the key, then the agent's keys, then the password; what was refused is told.
//!
//! Runs only after the host key has matched.

use super::hostkey::Checker;
use russh::{
    client::{AuthResult, Handle},
    keys::{self, PrivateKeyWithHashAlg, agent::client::AgentClient},
};
use std::sync::Arc;
use vmdeck_model::{
    error::{Fault, Result},
    ids::GuestId,
    key::Options,
};

/// Tries each way that the options name; a fault blamed on the user will not get better by waiting.
pub(super) async fn log_in(handle: &mut Handle<Checker>, options: &Options, guest: &GuestId) -> Result<()> {
    let user = options.text("user").unwrap_or_default().to_owned();
    let mut refused = Vec::new();
    let mut left = String::new();
    if let Some(path) = options.path("key") {
        let phrase = options.secret("key_passphrase").map(|s| s.expose().to_owned());
        let key = keys::load_secret_key(path, phrase.as_deref()).map_err(|e| bad_key(path, phrase.is_some(), &e))?;
        let key = Arc::new(key);
        let hash = if key.algorithm().is_rsa() {
            handle.best_supported_rsa_hash().await.map_err(lost)?.flatten()
        } else {
            None
        };
        let answer = handle.authenticate_publickey(&user, PrivateKeyWithHashAlg::new(key, hash)).await.map_err(lost)?;
        if answer.success() {
            return Ok(());
        }
        left = methods(&answer);
        refused.push(format!("the key `{}`", path.display()));
    }
    if options.flag("agent") {
        if by_agent(handle, &user).await? {
            return Ok(());
        }
        refused.push("every key of the ssh-agent".into());
    }
    if let Some(password) = options.secret("password") {
        let answer = handle.authenticate_password(&user, password.expose()).await.map_err(lost)?;
        if answer.success() {
            return Ok(());
        }
        left = methods(&answer);
        refused.push("the password".into());
    }
    let takes = if left.is_empty() { String::new() } else { format!(" (it takes: {left})") };
    Err(Fault::infra(format!("cannot log in to guest `{guest}` as `{user}`"))
        .because(format!("it refused {}{takes}", refused.join(" and ")))
        .hint(format!("check `guests.{guest}.ssh.user`, and that the guest knows this key or password"))
        .permanent())
}

async fn by_agent(handle: &mut Handle<Checker>, user: &str) -> Result<bool> {
    let failed =
        || Fault::user("cannot use the ssh-agent").hint("start one and set SSH_AUTH_SOCK, or set `agent = false`");
    let mut agent = AgentClient::connect_env().await.map_err(|e| failed().because(e))?;
    for identity in agent.request_identities().await.map_err(|e| failed().because(e))? {
        let key = identity.public_key().into_owned();
        // The agent does not say which hash an RSA key is to sign with.
        let hash = if key.algorithm().is_rsa() {
            handle.best_supported_rsa_hash().await.map_err(lost)?.flatten()
        } else {
            None
        };
        let answer = handle.authenticate_publickey_with(user, key, hash, &mut agent).await;
        if answer.map_err(|e| failed().because(e))?.success() {
            return Ok(true);
        }
    }
    Ok(false)
}

fn methods(answer: &AuthResult) -> String {
    match answer {
        AuthResult::Failure { remaining_methods, .. } => {
            remaining_methods.iter().map(String::from).collect::<Vec<_>>().join(", ")
        }
        AuthResult::Success => String::new(),
    }
}

fn bad_key(path: &std::path::Path, has_phrase: bool, error: &keys::Error) -> Fault {
    let hint = match (error, has_phrase) {
        (keys::Error::KeyIsEncrypted, _) => "set `ssh.key_passphrase`".to_owned(),
        (_, true) => "is `ssh.key_passphrase` right?".to_owned(),
        _ => format!("is `{}` a private key in OpenSSH form?", path.display()),
    };
    Fault::user(format!("cannot read the key `{}`", path.display())).because(error).hint(hint)
}

fn lost(error: impl std::fmt::Display) -> Fault {
    Fault::infra("cannot log in").because(format!("the connection was lost: {error}"))
}
