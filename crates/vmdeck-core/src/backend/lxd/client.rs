//! The calls to a daemon that vmdeck makes, each with a limit.
//!
//! Facts: a call about an instance whose member has just died takes 10 s and fails; an operation is forgotten 5 s after its end, so
//! that after a pause the object is asked and not the operation.

use super::{
    answer::{LxdInstance, LxdMember, LxdOperation, LxdResources, LxdServer, LxdState, read},
    error::LxdError,
    flavour::Flavour,
    http::{self, LxdAnswer, LxdStream},
    place::LxdPlace,
};
use crate::host::clock;
use bytes::Bytes;
use hyper::Method;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::{collections::BTreeMap, sync::Arc, time::Duration};
use vmdeck_model::text::one_line;

/// How long a question may take: longer than the daemon waits for a member that has died.
const ASK: Duration = Duration::from_secs(15);
/// How long a member may take to answer before the list is asked instead.
const GLANCE: Duration = Duration::from_secs(2);
/// How long one wait for an operation is; what is not done then is waited for again.
const WAIT: Duration = Duration::from_secs(20);

/// How often the progress of what takes long is asked for.
const TELL: Duration = Duration::from_secs(2);

/// Is called with the progress of what takes long, as one line.
type Tell<'a> = &'a (dyn Fn(&str) + Send + Sync);

/// Asks one daemon about one project.
#[derive(Clone, Debug)]
pub(super) struct LxdClient {
    pub(super) flavour: &'static Flavour,
    pub(super) place: Arc<LxdPlace>,
}

impl LxdClient {
    /// Returns a client; nothing is sent.
    pub(super) fn new(flavour: &'static Flavour, place: LxdPlace) -> Self {
        Self { flavour, place: Arc::new(place) }
    }

    /// Returns what the daemon is.
    pub(super) async fn server(&self) -> Result<LxdServer, LxdError> {
        self.get("/1.0").await
    }

    /// Returns the fingerprint by which the daemon is known.
    pub(super) async fn fingerprint(&self) -> Result<String, LxdError> {
        Ok(self.server().await?.environment.certificate_fingerprint)
    }

    /// Checks that the project exists: one that does not is an empty list to every other question.
    pub(super) async fn project(&self) -> Result<(), LxdError> {
        self.get::<Value>(&url(&["1.0", "projects", &self.place.project], &[])).await.map(drop)
    }

    /// Lists all instances of the project.
    pub(super) async fn instances(&self) -> Result<Vec<LxdInstance>, LxdError> {
        self.project().await?;
        self.get(&self.path(&["1.0", "instances"], &[("recursion", "1")])).await
    }

    /// Returns an instance; `None` = there is none of this name.
    pub(super) async fn instance(&self, name: &str) -> Result<Option<LxdInstance>, LxdError> {
        match self.get(&self.of_instance(name, &[])).await {
            Err(LxdError::NotFound(_)) => self.project().await.map(|()| None),
            answer => answer.map(Some),
        }
    }

    /// Returns the same as [`LxdClient::instance`] without waiting for a member that has died: then it comes from the list, where it has
    /// no settings.
    pub(super) async fn glance(&self, name: &str) -> Result<Option<LxdInstance>, LxdError> {
        match clock::within(GLANCE, self.instance(name)).await {
            Some(Ok(seen)) => Ok(seen),
            Some(Err(_)) | None => Ok(self.instances().await?.into_iter().find(|instance| instance.name == name)),
        }
    }

    /// Returns how an instance is now.
    pub(super) async fn state(&self, name: &str) -> Result<LxdState, LxdError> {
        self.get(&self.of_instance(name, &["state"])).await
    }

    /// Returns the members of the cluster. It fails without a quorum, where the daemon itself still answers.
    pub(super) async fn members(&self) -> Result<Vec<LxdMember>, LxdError> {
        self.get(&url(&["1.0", "cluster", "members"], &[("recursion", "1")])).await
    }

    /// Returns what a member has.
    pub(super) async fn resources(&self, member: &str) -> Result<LxdResources, LxdError> {
        self.get(&url(&["1.0", "resources"], &[("target", member)])).await
    }

    /// Returns whether an object of the project exists, such as a profile.
    pub(super) async fn has(&self, segments: &[&str]) -> Result<bool, LxdError> {
        match self.get::<Value>(&self.path(segments, &[])).await {
            Err(LxdError::NotFound(_)) => Ok(false),
            answer => answer.map(|_| true),
        }
    }

    /// Makes an instance on a member, or where the daemon has its only place.
    pub(super) async fn create(
        &self,
        body: &Value,
        member: Option<&str>,
        (limit, tell): (Duration, Tell<'_>),
    ) -> Result<(), LxdError> {
        let query: Vec<(&str, &str)> = member.map(|member| ("target", member)).into_iter().collect();
        let path = self.path(&["1.0", "instances"], &query);
        self.change((Method::POST, &path), Some(body), (limit, Some(tell))).await.map(drop)
    }

    /// Starts an instance, or stops it by force.
    pub(super) async fn set_state(&self, name: &str, action: &str, limit: Duration) -> Result<(), LxdError> {
        let body = json!({ "action": action, "force": action == "stop", "timeout": limit.as_secs() });
        let path = self.of_instance(name, &["state"]);
        self.change((Method::PUT, &path), Some(&body), (limit, None)).await.map(drop)
    }

    /// Deletes an instance that does not run.
    pub(super) async fn delete(&self, name: &str, limit: Duration) -> Result<(), LxdError> {
        let path = self.of_instance(name, &[]);
        self.change((Method::DELETE, &path), None, (limit, None)).await.map(drop)
    }

    /// Starts what goes on with streams; returns the operation and the words that open each stream.
    pub(super) async fn open(&self, name: &str, what: &str, body: &Value) -> Result<(String, Value), LxdError> {
        let path = self.of_instance(name, &[what]);
        let answer = http::call(&self.place.daemon, (Method::POST, &path), Some(body), ASK).await?;
        let words = answer.metadata["metadata"]["fds"].clone();
        let operation = answer.operation.ok_or_else(|| LxdError::Lost("it began nothing".into()))?;
        Ok((operation, words))
    }

    /// Opens one stream of an operation.
    pub(super) async fn stream(&self, operation: &str, words: &Value, of: &str) -> Result<LxdStream, LxdError> {
        let secret = words[of].as_str().ok_or_else(|| LxdError::Lost(format!("it gave no stream `{of}`")))?;
        let mut path = format!("{operation}/websocket");
        path.push_str(&query(&[("secret", secret)]));
        http::stream(&self.place.daemon, &path).await
    }

    /// Opens the stream of all that happens to instances of the project.
    pub(super) async fn events(&self) -> Result<LxdStream, LxdError> {
        http::stream(&self.place.daemon, &self.path(&["1.0", "events"], &[("type", "lifecycle")])).await
    }

    /// Returns a text of an instance: its console, or one of its logs.
    pub(super) async fn text(&self, name: &str, below: &[&str]) -> Result<Bytes, LxdError> {
        http::text(&self.place.daemon, &self.of_instance(name, below), ASK).await
    }

    /// Waits for the end of an operation; returns what it gives.
    pub(super) async fn wait(&self, operation: &str, limit: Duration) -> Result<Value, LxdError> {
        self.wait_telling(operation, limit, None).await
    }

    async fn wait_telling(&self, operation: &str, limit: Duration, tell: Option<Tell<'_>>) -> Result<Value, LxdError> {
        let end = clock::now() + limit;
        let turn = if tell.is_some() { TELL } else { WAIT };
        loop {
            let rest = end.saturating_duration_since(clock::now());
            if rest.is_zero() {
                return Err(LxdError::Late(limit));
            }
            // In whole seconds: less than one would be no wait at all.
            let seconds = turn.min(rest).as_secs().max(1).to_string();
            let path = format!("{operation}/wait{}", query(&[("timeout", &seconds)]));
            let answer = http::call(&self.place.daemon, (Method::GET, &path), None, WAIT.min(rest) + ASK).await?;
            let now: LxdOperation = read(answer.metadata)?;
            match now.status_code {
                200 => return Ok(now.metadata.unwrap_or_default()),
                // A command that could not be started has failed, and has a status all the same.
                code @ 400.. => return Err(LxdError::Refused { code, text: now.err }),
                _ => {
                    // `download_progress`, `create_instance_from_image_unpack_progress`, ...: a text each.
                    let words = now.metadata.as_ref().and_then(Value::as_object).into_iter().flatten();
                    let progress =
                        words.filter(|(key, _)| key.ends_with("progress")).find_map(|(_, value)| value.as_str());
                    if let (Some(tell), Some(progress)) = (tell, progress) {
                        tell(&one_line(progress));
                    }
                }
            }
        }
    }

    /// Waits until nothing goes on any more that is about an instance of this name: what was asked for by a process that has died is
    /// done all the same.
    pub(super) async fn settle(&self, name: &str, limit: Duration) -> Result<(), LxdError> {
        let path = self.path(&["1.0", "operations"], &[("recursion", "1")]);
        let answer = http::call(&self.place.daemon, (Method::GET, &path), None, ASK).await?;
        // By their state; a daemon that does nothing may say nothing at all.
        let all: BTreeMap<String, Vec<LxdOperation>> = match answer.metadata {
            Value::Object(_) => read(answer.metadata)?,
            _ => BTreeMap::new(),
        };
        for operation in all.into_values().flatten().filter(|operation| operation.changes(name)) {
            // How it ended is seen by what is there.
            if let Err(error @ LxdError::Late(_)) = self.wait(&format!("/1.0/operations/{}", operation.id), limit).await
            {
                return Err(error);
            }
        }
        Ok(())
    }

    async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, LxdError> {
        let answer = http::call(&self.place.daemon, (Method::GET, path), None, ASK).await?;
        read(answer.metadata)
    }

    async fn change(
        &self,
        (method, path): (Method, &str),
        body: Option<&Value>,
        (limit, tell): (Duration, Option<Tell<'_>>),
    ) -> Result<Value, LxdError> {
        let LxdAnswer { metadata, operation } = http::call(&self.place.daemon, (method, path), body, limit).await?;
        match operation {
            Some(operation) => self.wait_telling(&operation, limit, tell).await,
            None => Ok(metadata),
        }
    }

    fn of_instance(&self, name: &str, below: &[&str]) -> String {
        self.path(&[&["1.0", "instances", name], below].concat(), &[])
    }

    fn path(&self, segments: &[&str], further: &[(&str, &str)]) -> String {
        url(segments, &[&[("project", self.place.project.as_str())], further].concat())
    }
}

/// Returns a path with its query, in which no name can be more than a name.
fn url(segments: &[&str], pairs: &[(&str, &str)]) -> String {
    let Ok(mut url) = reqwest::Url::parse("http://daemon/") else { return String::new() };
    if let Ok(mut path) = url.path_segments_mut() {
        path.clear().extend(segments);
    }
    if !pairs.is_empty() {
        url.query_pairs_mut().extend_pairs(pairs);
    }
    match url.query() {
        Some(query) => format!("{}?{query}", url.path()),
        None => url.path().to_owned(),
    }
}

fn query(pairs: &[(&str, &str)]) -> String {
    url(&[], pairs).trim_start_matches('/').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_never_becomes_more_than_a_name() {
        assert_eq!(url(&["1.0", "instances"], &[("project", "a b&c=d")]), "/1.0/instances?project=a+b%26c%3Dd");
        assert_eq!(url(&["1.0", "projects", "a/../../b?c#d"], &[]), "/1.0/projects/a%2F..%2F..%2Fb%3Fc%23d");
        assert_eq!(query(&[("timeout", "20")]), "?timeout=20");
    }
}
