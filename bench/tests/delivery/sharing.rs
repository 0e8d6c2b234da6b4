//! A link that is too narrow for all who use it.

use anyhow::{Result, ensure};
use bench::sharing::{Other, SharingArgs, measure};

use crate::fixtures::Fixtures;

/// What everybody gets of a fair share at least, on a machine that is busy with other things too.
const OF_FAIR_SHARE_MIN: f64 = 0.1;

pub(crate) fn two_sessions_share_a_link_that_is_too_narrow(_: &Fixtures) -> Result<()> {
    let sharing = measure(&SharingArgs::short(Other::Session, 0))?;
    ensure!(sharing.parties.len() == 2, "somebody is missing: {sharing:?}");
    ensure!(sharing.parties.iter().all(|party| party.of_fair_share >= OF_FAIR_SHARE_MIN), "somebody starves: {sharing:?}");
    Ok(())
}

pub(crate) fn tcp_and_a_session_that_was_there_first_share_a_narrow_link(_: &Fixtures) -> Result<()> {
    let sharing = measure(&SharingArgs::short(Other::Tcp, 1))?;
    ensure!(sharing.parties.len() == 2, "somebody is missing: {sharing:?}");
    ensure!(sharing.parties.iter().all(|party| party.of_fair_share >= OF_FAIR_SHARE_MIN), "somebody starves: {sharing:?}");
    Ok(())
}
