//! What a host and a cluster must have for a guest: the findings of `vmdeck doctor` and of preflight.

use super::{
    answer::LxdServer, client::LxdClient, error::LxdError, flavour::Flavour, instance, place::LxdPlace, placement,
};
use vmdeck_model::{
    error::Fault,
    event::{Finding, Severity},
    guest::Guest,
    quantity::show_size,
};

/// Returns the findings about a guest, or about the host alone.
pub(super) async fn findings(flavour: &'static Flavour, guest: Option<&Guest>) -> Vec<Finding> {
    match guest {
        Some(guest) => of_guest(flavour, guest).await,
        None => of_host(flavour).await,
    }
}

async fn of_host(flavour: &'static Flavour) -> Vec<Finding> {
    let Some(place) = LxdPlace::of_host(flavour) else { return Vec::new() };
    let client = LxdClient::new(flavour, place);
    match client.server().await {
        Ok(server) => vec![found(flavour, Severity::Ok, describe(flavour, &server), None)],
        Err(error) => vec![Finding::of_fault(flavour.kind, Severity::Warn, &error.fault(flavour, "ask the daemon"))],
    }
}

fn found(flavour: &Flavour, severity: Severity, text: String, hint: Option<String>) -> Finding {
    Finding { check: flavour.kind.into(), severity, text, hint, fix: None }
}

fn describe(flavour: &Flavour, server: &LxdServer) -> String {
    let environment = &server.environment;
    let cluster = if environment.server_clustered { ", in a cluster" } else { "" };
    format!("{} {}{cluster}", flavour.name, environment.server_version)
}

async fn of_guest(flavour: &'static Flavour, guest: &Guest) -> Vec<Finding> {
    let fatal = |fault: &Fault| Finding::of_fault(flavour.kind, Severity::Fatal, fault);
    let place = match LxdPlace::of_guest(flavour, guest) {
        Ok(place) => place,
        Err(fault) => return vec![fatal(&fault)],
    };
    let client = LxdClient::new(flavour, place);
    let server = match client.server().await {
        Ok(server) => server,
        Err(error) => return vec![fatal(&error.fault(flavour, format!("use guest `{}`", guest.id)))],
    };
    let mut out = vec![found(flavour, Severity::Ok, describe(flavour, &server), None)];
    if server.auth != "trusted" {
        let error = LxdError::Refused { code: 403, text: "not authorized".into() };
        return vec![fatal(&error.fault(flavour, format!("use the daemon at {}", client.place.daemon)))];
    }
    if server.environment.server != flavour.kind {
        let text = format!(
            "`{}` is a daemon of `{}`, not of {}",
            client.place.daemon, server.environment.server, flavour.name
        );
        let hint = format!("set `guests.{}.backend = \"{}\"`", guest.key, server.environment.server);
        out.push(found(flavour, Severity::Fatal, text, Some(hint)));
        return out;
    }
    match check_daemon(flavour, &client, guest, &server).await {
        Ok(more) => out.extend(more),
        Err(error) => out.push(fatal(&error.fault(flavour, format!("check guest `{}`", guest.id)))),
    }
    out
}

async fn check_daemon(
    flavour: &'static Flavour,
    client: &LxdClient,
    guest: &Guest,
    server: &LxdServer,
) -> Result<Vec<Finding>, LxdError> {
    let mut out = Vec::new();
    let (id, program) = (&guest.id, flavour.program);
    let key = |name: &str| format!("guests.{}.{}.{name}", guest.key, flavour.kind);
    let mut fatal = |text: String, hint: String| out.push(found(flavour, Severity::Fatal, text, Some(hint)));
    let project = &client.place.project;
    if let Err(LxdError::NotFound(_)) = client.project().await {
        fatal(
            format!("guest `{id}`: there is no project `{project}`"),
            format!("correct `{}`; `{program} project list` shows what there is", key("project")),
        );
        return Ok(out);
    }
    for (device, text) in guest.options.map("devices") {
        if !instance::is_device(text) {
            fatal(
                format!(
                    "guest `{id}`: the device `{device}` is `{text}`, which has no `type=...` and `key=value` pairs"
                ),
                format!("correct `{}.{device}`: `type=disk,source=/srv,path=/data`", key("devices")),
            );
        }
    }
    if let Some((reserved, _)) = guest.options.map("config").find(|(setting, _)| setting.starts_with("user.vmdeck.")) {
        fatal(
            format!("guest `{id}`: the setting `{reserved}` is vmdeck's own: it says whose the instance is"),
            format!("remove it from `{}`", key("config")),
        );
    }
    let is_vm = guest.options.text("type") == Some("vm");
    let driver = if is_vm { "qemu" } else { "lxc" };
    if !server.environment.driver.contains(driver) {
        let what = if is_vm { "virtual machines" } else { "containers" };
        fatal(
            format!("guest `{id}`: this {} makes no {what} (its drivers: {})", flavour.name, server.environment.driver),
            format!("`{program} info` says why; set `{}` to the other one", key("type")),
        );
    }
    for profile in guest.options.texts("profiles") {
        if !client.has(&["1.0", "profiles", profile]).await? {
            fatal(
                format!("guest `{id}`: there is no profile `{profile}` in the project `{project}`"),
                format!("correct `{}`; `{program} profile list` shows what there is", key("profiles")),
            );
        }
    }
    if let Some(image) = instance::own_image(flavour.kind, guest)
        && !client.has(&["1.0", "images", "aliases", image]).await?
        && !client.has(&["1.0", "images", image]).await?
    {
        fatal(
            format!("guest `{id}`: {} has no image `{image}`", flavour.name),
            format!(
                "`{program} image list` shows what there is; `ubuntu:24.04` and `images:debian/12` are fetched; set `{}`",
                key("image")
            ),
        );
    }
    if server.environment.server_clustered {
        let members = client.members().await?;
        if let Some(target) = guest.options.text("target")
            && !members.iter().any(|member| placement::is_wanted(member, Some(target)))
        {
            let text = format!("guest `{id}`: {}", placement::no_such(&members, target));
            out.push(found(flavour, Severity::Fatal, text, Some(format!("correct `{}`", key("target")))));
        }
        let mut largest = None;
        for member in members.iter().filter(|member| member.is_online()) {
            if placement::is_wanted(member, guest.options.text("target"))
                && let Ok(resources) = client.resources(&member.server_name).await
            {
                largest = largest.max(Some(resources.memory.total));
            }
        }
        if let Some(largest) = largest.filter(|largest| *largest < guest.memory) {
            let (wants, has) = (show_size(guest.memory), show_size(largest));
            let text = format!("guest `{id}` wants {wants} of memory, and no member has more than {has} in all");
            out.push(found(flavour, Severity::Fatal, text, Some(format!("lower `guests.{}.memory`", guest.key))));
        }
        let away: Vec<String> = members
            .iter()
            .filter(|member| !member.is_online())
            .map(|member| format!("`{}` ({}: {})", member.server_name, member.status.to_lowercase(), member.message))
            .collect();
        if !away.is_empty() {
            let text =
                format!("{} of {} members of the cluster are away: {}", away.len(), members.len(), away.join(", "));
            out.push(found(flavour, Severity::Warn, text, Some(format!("`{program} cluster list` shows the members"))));
        }
    } else if let Some(target) = guest.options.text("target") {
        let text = format!("guest `{id}`: `{target}` is a member of a cluster, and there is none");
        out.push(found(flavour, Severity::Fatal, text, Some(format!("remove `{}`", key("target")))));
    }
    Ok(out)
}
