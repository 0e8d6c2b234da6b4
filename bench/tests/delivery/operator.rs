//! What the operator sees and changes while machines are installed.

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::fixtures::Fixtures;
use crate::world::{EASY_RATE, PORT, ServeOptions, ServeSummary, TRANSFER_LIMIT, World, finish, summary_of, wait_until};

/// So slow that nobody is done before the operator has spoken: the fleet's pack takes over a minute.
const SLOW_RATE: &str = "20M";
/// `discus serve --once` when somebody is incomplete; `discus-receive` when it was dismissed.
const EXIT_INCOMPLETE: i32 = 8;
const EXIT_DISMISSED: i32 = 7;

pub(crate) fn images_are_installed_in_the_order_of_their_priorities(fixtures: &Fixtures) -> Result<()> {
    let pack = fixtures.fleet()?;
    // Both ways, so that it cannot be the order that the sender would take by itself.
    for (first, second) in [("db", "web"), ("web", "db")] {
        let world = World::new(2)?;
        let priority = format!("{first}=10");
        let sender = world.serve(&pack.path, &ServeOptions { once: Some(2), arguments: &["--priority", &priority] })?;
        let receivers =
            [first, second].into_iter().enumerate().map(|(index, image)| world.receive(&sender, index, image, &world.path(image), &[]));
        for receiver in receivers.collect::<Result<Vec<_>>>()? {
            finish(receiver)?;
        }
        let summary = sender.finish()?;
        let [first_ended, second_ended] = [ended_unix_ms(&summary, 0)?, ended_unix_ms(&summary, 1)?];
        ensure!(first_ended < second_ended, "{first} was to be first: {summary:?}");
    }
    Ok(())
}

pub(crate) fn an_operator_changes_a_running_sender(fixtures: &Fixtures) -> Result<()> {
    let pack = fixtures.fleet()?;
    let world = World::new(3)?;
    let server = format!("{}:{PORT}", world.lab.sender.ipv4);
    let sender = world.serve_at(&pack.path, &ServeOptions { once: Some(3), ..ServeOptions::default() }, &server, SLOW_RATE)?;
    let in_group = ["--group", "rack-1"];
    let web = world.receive(&sender, 0, "web", &world.path("web"), &in_group)?;
    let db = world.receive(&sender, 1, "db", &world.path("db"), &[])?;
    let stray = world.receive(&sender, 2, "files", &world.path("files"), &[])?;
    let status = || -> Result<Value> { Ok(serde_json::from_str(&world.operate(&["status", "--json"])?)?) };
    let listed =
        |status: &Value| status["receivers"].as_array().is_some_and(|all| all.iter().filter(|one| one["state"] == "listed").count() == 3);
    wait_until("three machines on the list", || Ok(listed(&status()?)))?;
    let seen = status()?;
    let row =
        |name: &str| seen["receivers"].as_array().and_then(|all| all.iter().find(|one| one["name"] == name).cloned()).unwrap_or_default();
    ensure!(row("machine0")["group"] == "rack-1" && row("machine0")["image"] == "web", "{seen}");
    ensure!(seen["settings"]["rate_cap_bits_per_second"] == 20_000_000, "{seen}");

    world.operate(&["set", "--priority", "db=10", "--priority", "group:rack-1=-10", "--rate", EASY_RATE])?;
    let id = row("machine2")["receiver_id"].to_string();
    world.operate(&["dismiss", &id, "--reason", "wrong rack"])?;
    let dismissed = stray.wait(TRANSFER_LIMIT)?;
    ensure!(
        dismissed.code == Some(EXIT_DISMISSED) && dismissed.stderr.contains("wrong rack"),
        "{:?}: {}",
        dismissed.code,
        dismissed.stderr
    );

    finish(db)?;
    finish(web)?;
    let ended = sender.process.wait(TRANSFER_LIMIT)?;
    ensure!(ended.code == Some(EXIT_INCOMPLETE), "{:?}: {}", ended.code, ended.stderr);
    let summary: ServeSummary = summary_of(&ended)?;
    ensure!(ended_unix_ms(&summary, 1)? < ended_unix_ms(&summary, 0)?, "db was to be first: {summary:?}");
    for image in ["web", "db"] {
        pack.assert_delivered(image, &world.path(image))?;
    }
    Ok(())
}

/// When the machine with number `index` was off the list.
fn ended_unix_ms(summary: &ServeSummary, index: usize) -> Result<u64> {
    let name = format!("machine{index}");
    let row = summary.receivers.iter().find(|receiver| receiver.name == name);
    row.and_then(|receiver| receiver.ended_unix_ms).with_context(|| format!("{name} has not ended: {summary:?}"))
}
