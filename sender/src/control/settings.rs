//! What the operator can change while the sender runs: the cap of the rate, and which images and groups of receivers come first.

use super::{ControlEvent, is_group_name, printable};
use crossbeam_channel::{Sender, TrySendError};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt::{self, Display};
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Caps that make sense. Slower than 100 kbit/s nothing useful arrives, it is rather a unit forgotten; a terabit is faster than any link.
pub const RATE_CAP_BITS_PER_SECOND: RangeInclusive<u64> = 100_000..=1_000_000_000_000;
/// Priorities there are. 0 is what a receiver has of which nothing is said.
pub const PRIORITY: RangeInclusive<i16> = -100..=100;
/// Groups that can be given a priority: more than a data centre has racks.
const GROUPS_MAX: usize = 4096;
/// Names of images in an error message.
const IMAGES_LISTED_MAX: usize = 20;

/// The settings of a running sender.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// Never send faster than this, all streams together, counted as frames on the wire.
    pub rate_cap_bits_per_second: u64,
    /// Who is served first.
    pub priorities: Priorities,
}

/// Which images and groups come before others and which after.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Priorities {
    images: BTreeMap<String, i16>,
    groups: BTreeMap<String, i16>,
}

impl Priorities {
    /// The priority of a receiver of `group` that wants `image`: the group's if that has one, else the image's, else 0.
    pub fn of(&self, image: &str, group: &str) -> i16 {
        self.groups.get(group).or_else(|| self.images.get(image)).copied().unwrap_or_default()
    }
}

impl Settings {
    /// Makes the changes of `patch`, all or none.
    ///
    /// # Errors
    /// [`SettingsError`] when one of them cannot be made.
    pub fn apply<'a>(&mut self, patch: &SettingsPatch, images: impl Iterator<Item = &'a str> + Clone) -> Result<(), SettingsError> {
        let rate = patch.rate_cap_bits_per_second.unwrap_or(self.rate_cap_bits_per_second);
        if !RATE_CAP_BITS_PER_SECOND.contains(&rate) {
            return Err(SettingsError::RateCap(rate));
        }
        let mut priorities = self.priorities.clone();
        for (image, priority) in &patch.priorities.images {
            if !images.clone().any(|known| known == image) {
                return Err(SettingsError::UnknownImage { image: printable(image), images: listed(images) });
            }
            change(&mut priorities.images, image, *priority)?;
        }
        for (group, priority) in &patch.priorities.groups {
            if !is_group_name(group) {
                return Err(SettingsError::Group);
            }
            change(&mut priorities.groups, group, *priority)?;
        }
        if priorities.groups.len() > GROUPS_MAX {
            return Err(SettingsError::TooManyGroups);
        }
        *self = Settings { rate_cap_bits_per_second: rate, priorities };
        Ok(())
    }
}

fn change(priorities: &mut BTreeMap<String, i16>, name: &str, priority: Option<i16>) -> Result<(), SettingsError> {
    match priority {
        Some(priority) if !PRIORITY.contains(&priority) => return Err(SettingsError::Priority(priority)),
        Some(priority) => priorities.insert(name.to_owned(), priority),
        None => priorities.remove(name),
    };
    Ok(())
}

fn listed<'a>(images: impl Iterator<Item = &'a str> + Clone) -> String {
    let names: Vec<&str> = images.clone().take(IMAGES_LISTED_MAX).collect();
    let more = if images.count() > names.len() { ", …" } else { "" };
    names.join(", ") + more
}

/// Changes of [`Settings`]: what is not named stays as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SettingsPatch {
    /// The new cap.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate_cap_bits_per_second: Option<u64>,
    /// New priorities.
    #[serde(default)]
    pub priorities: PrioritiesPatch,
}

/// Changes of [`Priorities`]; without a number nothing is said of an image or a group any more.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PrioritiesPatch {
    /// Priorities of images by their names.
    #[serde(default)]
    pub images: BTreeMap<String, Option<i16>>,
    /// Priorities of groups by their names.
    #[serde(default)]
    pub groups: BTreeMap<String, Option<i16>>,
}

impl PrioritiesPatch {
    /// Adds what a command line says.
    pub fn add(&mut self, priority: PriorityArgument) {
        match priority.subject {
            Subject::Image(name) => self.images.insert(name, priority.value),
            Subject::Group(name) => self.groups.insert(name, priority.value),
        };
    }
}

/// A priority as it stands on a command line: `IMAGE=N` or `group:NAME=N`, or `none` for N to take back what was said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PriorityArgument {
    /// Whose.
    pub subject: Subject,
    /// Which; `None` takes back what was said.
    pub value: Option<i16>,
}

/// What can have a priority.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Subject {
    /// All receivers of an image.
    Image(String),
    /// All receivers of a group.
    Group(String),
}

impl FromStr for PriorityArgument {
    type Err = String;

    fn from_str(text: &str) -> Result<PriorityArgument, String> {
        // Names of groups may contain anything.
        let (name, value) = text.rsplit_once('=').ok_or("a priority is given as IMAGE=N or group:NAME=N, like db=10")?;
        // Names of images may contain colons: `image:group:x=1` is the one that is called `group:x`.
        let subject = match (name.strip_prefix("group:"), name.strip_prefix("image:")) {
            (Some(group), _) => Subject::Group(group.to_owned()),
            (None, Some(image)) => Subject::Image(image.to_owned()),
            (None, None) => Subject::Image(name.to_owned()),
        };
        let (Subject::Group(name) | Subject::Image(name)) = &subject;
        if name.is_empty() {
            return Err("the name of the image or group is missing".to_owned());
        }
        let value = match value {
            "none" => None,
            number => Some(number.parse().ok().filter(|number| PRIORITY.contains(number)).ok_or_else(|| {
                format!("{number:?} is no priority: a whole number from {} to {}, higher first, or none", PRIORITY.start(), PRIORITY.end())
            })?),
        };
        Ok(PriorityArgument { subject, value })
    }
}

impl Display for Priorities {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let images = self.images.iter().map(|(name, priority)| format!("{name}={priority}"));
        let groups = self.groups.iter().map(|(name, priority)| format!("group:{name}={priority}"));
        formatter.write_str(&images.chain(groups).collect::<Vec<_>>().join(", "))
    }
}

/// Why settings stay as they are.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SettingsError {
    /// A priority for an image that is not served.
    #[error("there is no image {image:?}; this sender serves {images}")]
    UnknownImage {
        /// What was asked for.
        image: String,
        /// What there is.
        images: String,
    },
    /// No priority.
    #[error("{0} is no priority: they go from {least} to {most}", least = PRIORITY.start(), most = PRIORITY.end())]
    Priority(i16),
    /// No name.
    #[error("a group's name has 1 to 255 bytes and no control characters")]
    Group,
    /// More than anybody has.
    #[error("more than {GROUPS_MAX} groups have a priority; take back some, with null or `none`")]
    TooManyGroups,
    /// No rate.
    #[error("{0} bit/s is outside 100k to 1000G")]
    RateCap(u64),
}

/// The settings as they are now; changes go to the engine.
pub(super) struct SettingsStore {
    current: Mutex<Settings>,
    events: Sender<ControlEvent>,
}

/// What became of a change.
pub(super) enum Change {
    /// These are in force now.
    Done(Settings),
    /// Nothing has changed.
    Refused(SettingsError),
    /// The engine is behind; nothing has changed, try again.
    Busy,
    /// The engine is gone.
    EngineGone,
}

impl SettingsStore {
    pub(super) fn new(settings: Settings, events: Sender<ControlEvent>) -> SettingsStore {
        SettingsStore { current: Mutex::new(settings), events }
    }

    fn lock(&self) -> MutexGuard<'_, Settings> {
        // Settings change in one assignment.
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn current(&self) -> Settings {
        self.lock().clone()
    }

    /// Changes settings and tells the engine. The lock is held over both, so that the engine hears of changes in their order.
    pub(super) fn change<'a>(&self, patch: &SettingsPatch, images: impl Iterator<Item = &'a str> + Clone) -> Change {
        let mut current = self.lock();
        let mut settings = current.clone();
        if let Err(error) = settings.apply(patch, images) {
            return Change::Refused(error);
        }
        if settings != *current {
            match self.events.try_send(ControlEvent::Settings(settings.clone())) {
                Ok(()) => *current = settings.clone(),
                Err(TrySendError::Full(_)) => return Change::Busy,
                Err(TrySendError::Disconnected(_)) => return Change::EngineGone,
            }
        }
        Change::Done(settings)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IMAGES: [&str; 2] = ["web", "db"];

    fn patch(json: &str) -> SettingsPatch {
        serde_json::from_str(json).unwrap()
    }

    fn settings() -> Settings {
        Settings { rate_cap_bits_per_second: 1_000_000_000, priorities: Priorities::default() }
    }

    fn applied(patches: &[&str]) -> Result<Settings, SettingsError> {
        let mut settings = settings();
        for json in patches {
            settings.apply(&patch(json), IMAGES.into_iter())?;
        }
        Ok(settings)
    }

    #[test]
    fn a_receivers_priority_is_its_groups_then_its_images_then_0() {
        let settings = applied(&[r#"{"priorities":{"images":{"db":10},"groups":{"rack-1":-5}}}"#]).unwrap();
        let of = |image, group| settings.priorities.of(image, group);
        assert_eq!([of("db", ""), of("db", "rack-2"), of("db", "rack-1"), of("web", "rack-1"), of("web", "")], [10, 10, -5, -5, 0]);
        assert_eq!(settings.priorities.to_string(), "db=10, group:rack-1=-5");
    }

    #[test]
    fn what_a_patch_does_not_name_stays_and_null_takes_back() {
        let changed = applied(&[
            r#"{"rate_cap_bits_per_second":5000000000,"priorities":{"images":{"db":10,"web":1}}}"#,
            r#"{"priorities":{"images":{"db":null}}}"#,
        ]);
        let changed = changed.unwrap();
        assert_eq!(changed.rate_cap_bits_per_second, 5_000_000_000);
        assert_eq!(changed.priorities.to_string(), "web=1");
        assert_eq!(applied(&["{}"]).unwrap(), settings());
    }

    #[test]
    fn a_patch_that_cannot_be_applied_changes_nothing() {
        let refusals = [
            (r#"{"rate_cap_bits_per_second":5}"#, "100k"),
            (r#"{"rate_cap_bits_per_second":2000000,"priorities":{"images":{"mail":1}}}"#, "serves web, db"),
            (r#"{"rate_cap_bits_per_second":2000000,"priorities":{"images":{"db":101}}}"#, "-100 to 100"),
            (r#"{"rate_cap_bits_per_second":2000000,"priorities":{"groups":{"a\u0007":1}}}"#, "control"),
            (r#"{"rate_cap_bits_per_second":2000000,"priorities":{"groups":{"":1}}}"#, "1 to 255"),
        ];
        for (json, why) in refusals {
            let mut changed = settings();
            let error = changed.apply(&patch(json), IMAGES.into_iter()).unwrap_err();
            assert!(error.to_string().contains(why), "{json}: {error}");
            assert_eq!(changed, settings());
        }
        for json in [r#"{"rate":5}"#, r#"{"priorities":{"db":5}}"#, r#"{"priorities":{"images":{"db":"high"}}}"#] {
            assert!(serde_json::from_str::<SettingsPatch>(json).is_err(), "{json}");
        }
    }

    #[test]
    fn groups_with_a_priority_are_bounded() {
        let mut many = SettingsPatch::default();
        many.priorities.groups = (0..=GROUPS_MAX).map(|number| (format!("rack-{number}"), Some(1))).collect();
        assert_eq!(settings().apply(&many, IMAGES.into_iter()), Err(SettingsError::TooManyGroups));
    }

    #[test]
    fn priorities_are_read_as_operators_write_them() {
        let read = |text: &str| text.parse::<PriorityArgument>();
        let image = |name: &str, value| Ok(PriorityArgument { subject: Subject::Image(name.to_owned()), value });
        let group = |name: &str, value| Ok(PriorityArgument { subject: Subject::Group(name.to_owned()), value });
        assert_eq!(read("db=10"), image("db", Some(10)));
        assert_eq!(read("db=-100"), image("db", Some(-100)));
        assert_eq!(read("group:rack 1=3"), group("rack 1", Some(3)));
        assert_eq!(read("group:a=b=3"), group("a=b", Some(3)));
        assert_eq!(read("image:group:x=3"), image("group:x", Some(3)));
        assert_eq!(read("group:rack-1=none"), group("rack-1", None));
        for wrong in ["db", "db=", "=5", "group:=5", "db=101", "db=-101", "db=1.5", "db=high", "db=99999999"] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }
}
