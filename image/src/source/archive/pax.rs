//! The records of pax headers: names, times, sizes, extended attributes and ACLs.

use super::tar::Malformed;
use crate::manifest::Xattr;

/// Records by their key. An empty value takes an earlier one back.
#[derive(Clone, Debug, Default)]
pub(super) struct Records {
    records: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Records {
    pub(super) fn len(&self) -> usize {
        self.records.len()
    }

    /// Adds the records of a header: `LENGTH KEY=VALUE\n`, the length being that of the whole.
    pub(super) fn merge(&mut self, mut header: &[u8]) -> Result<(), Malformed> {
        let damaged = "an extended header is damaged";
        while !header.is_empty() {
            let space = header.iter().position(|&byte| byte == b' ').ok_or(damaged)?;
            let length = header.get(..space).and_then(decimal).and_then(|length| usize::try_from(length).ok()).ok_or(damaged)?;
            let (record, rest) = header.split_at_checked(length).ok_or(damaged)?;
            let record = record.get(space + 1..).and_then(|record| record.strip_suffix(b"\n")).ok_or(damaged)?;
            let equals = record.iter().position(|&byte| byte == b'=').ok_or(damaged)?;
            let (key, value) = record.split_at_checked(equals).ok_or(damaged)?;
            self.records.push((key.to_vec(), value.get(1..).unwrap_or_default().to_vec()));
            header = rest;
        }
        Ok(())
    }

    /// These, and over them those of one member.
    pub(super) fn with(&self, local: Self) -> Self {
        let mut records = self.clone();
        records.records.extend(local.records);
        records
    }

    /// The last value of a key.
    pub(super) fn get(&self, key: &[u8]) -> Option<&[u8]> {
        let value = self.records.iter().rev().find(|(known, _)| known == key).map(|(_, value)| value.as_slice());
        value.filter(|value| !value.is_empty())
    }

    /// The values of these keys, in order.
    pub(super) fn all<'a>(&'a self, keys: &'a [&[u8]]) -> impl Iterator<Item = &'a [u8]> {
        self.records.iter().filter(|(key, _)| keys.contains(&key.as_slice())).map(|(_, value)| value.as_slice())
    }
}

/// A decimal number without sign.
pub(super) fn decimal(text: &[u8]) -> Option<u64> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// Seconds, perhaps negative, perhaps with a fraction: as whole seconds and the nanoseconds after them. What is finer is cut off.
pub(super) fn time(text: &[u8]) -> Option<(i64, u32)> {
    let (negative, text) = text.strip_prefix(b"-").map_or((false, text), |rest| (true, rest));
    let mut parts = text.splitn(2, |&byte| byte == b'.');
    let seconds = i64::try_from(decimal(parts.next()?)?).ok()?;
    let fraction = parts.next().unwrap_or_default();
    if !fraction.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let digits = fraction.iter().copied().chain(std::iter::repeat(b'0')).take(9);
    let nanoseconds = digits.fold(0u32, |value, digit| value * 10 + u32::from(digit - b'0'));
    match (negative, nanoseconds) {
        (false, _) => Some((seconds, nanoseconds)),
        (true, 0) => Some((-seconds, 0)),
        (true, _) => Some(((-seconds).checked_sub(1)?, 1_000_000_000 - nanoseconds)),
    }
}

/// The extended attributes among the records, ascending by name, and whether an ACL had to be left out because it names users.
pub(super) fn xattrs(records: &Records) -> Result<(Vec<Xattr>, bool), &'static str> {
    let mut xattrs: std::collections::BTreeMap<Vec<u8>, Vec<u8>> = Default::default();
    let mut left_out = false;
    for (key, value) in &records.records {
        if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
            xattrs.insert(name.to_vec(), value.clone());
        } else if let Some(name) = key.strip_prefix(b"LIBARCHIVE.xattr.") {
            // bsdtar writes both; SCHILY's, if it is there, says the same.
            xattrs.insert(percent_decoded(name), base64_decoded(value).ok_or("an extended attribute is damaged")?);
        } else if key == b"RHT.security.selinux" {
            // The kernel counts the NUL at its end.
            xattrs.insert(b"security.selinux".to_vec(), [value.as_slice(), b"\0"].concat());
        } else if let Some(name) = acl_name(key) {
            match acl(value) {
                // An access ACL of the owner, the group and the others alone is what the mode says; the kernel keeps none then.
                Some(binary) if binary.len() <= 4 + 3 * 8 && key.ends_with(b".access") => {}
                Some(binary) => drop(xattrs.insert(name.to_vec(), binary)),
                None => left_out = true,
            }
        }
    }
    // The kernel's own limits, which the manifest has too.
    let fits = |(name, value): (&Vec<u8>, &Vec<u8>)| !name.is_empty() && name.len() <= 255 && !name.contains(&0) && value.len() <= 65536;
    if !xattrs.iter().all(fits) {
        return Err("an extended attribute is longer than Linux allows, or has no name");
    }
    Ok((xattrs.into_iter().collect(), left_out))
}

fn acl_name(key: &[u8]) -> Option<&'static [u8]> {
    match key {
        b"SCHILY.acl.access" => Some(b"system.posix_acl_access"),
        b"SCHILY.acl.default" => Some(b"system.posix_acl_default"),
        _ => None,
    }
}

/// A POSIX ACL from its text (acl(5)) as the kernel has it (include/uapi/linux/posix_acl_xattr.h): version 2, then tag, permissions and id of
/// each entry. `None` when an entry names a user or group without its number.
fn acl(text: &[u8]) -> Option<Vec<u8>> {
    let mut entries: Vec<(u16, u32, u16)> = Vec::new();
    for entry in text.split(|byte| matches!(byte, b',' | b'\n')).map(<[u8]>::trim_ascii).filter(|entry| !entry.is_empty()) {
        // A comment tells the effective permissions.
        let entry = entry.split(|&byte| byte == b'#').next()?.trim_ascii();
        if entry.is_empty() {
            continue;
        }
        let fields: Vec<&[u8]> = entry.split(|&byte| byte == b':').collect();
        let (kind, name, permissions) = match fields.as_slice() {
            [kind, name, permissions] | [kind, name, permissions, _] => (*kind, *name, *permissions),
            _ => return None,
        };
        // star writes the number behind the name.
        let id = || fields.get(3).copied().or(Some(name)).and_then(decimal).and_then(|id| u32::try_from(id).ok());
        let (tag, id) = match (kind, name.is_empty()) {
            (b"user" | b"u", true) => (0x01, u32::MAX),
            (b"user" | b"u", false) => (0x02, id()?),
            (b"group" | b"g", true) => (0x04, u32::MAX),
            (b"group" | b"g", false) => (0x08, id()?),
            (b"mask" | b"m", true) => (0x10, u32::MAX),
            (b"other" | b"o", true) => (0x20, u32::MAX),
            _ => return None,
        };
        let permissions = permissions.iter().try_fold(0u16, |bits, letter| match letter {
            b'r' => Some(bits | 4),
            b'w' => Some(bits | 2),
            b'x' => Some(bits | 1),
            b'-' => Some(bits),
            _ => None,
        })?;
        entries.push((tag, id, permissions));
    }
    // The kernel wants them by tag, then by id.
    entries.sort_unstable();
    let mut binary = 2u32.to_le_bytes().to_vec();
    for (tag, id, permissions) in entries {
        binary.extend_from_slice(&tag.to_le_bytes());
        binary.extend_from_slice(&permissions.to_le_bytes());
        binary.extend_from_slice(&id.to_le_bytes());
    }
    Some(binary)
}

fn percent_decoded(text: &[u8]) -> Vec<u8> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&first, after)) = rest.split_first() {
        let hex = after.get(..2).filter(|_| first == b'%').and_then(|hex| std::str::from_utf8(hex).ok());
        match hex.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(byte) => {
                decoded.push(byte);
                rest = after.get(2..).unwrap_or_default();
            }
            None => {
                decoded.push(first);
                rest = after;
            }
        }
    }
    decoded
}

/// Base64 (RFC 4648), with or without padding.
fn base64_decoded(text: &[u8]) -> Option<Vec<u8>> {
    let mut decoded = Vec::with_capacity(text.len() / 4 * 3);
    let (mut bits, mut held) = (0u32, 0u32);
    for &letter in text.iter().filter(|&&letter| letter != b'=') {
        let value = match letter {
            b'A'..=b'Z' => letter - b'A',
            b'a'..=b'z' => letter - b'a' + 26,
            b'0'..=b'9' => letter - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        held = (held << 6 | u32::from(value)) & 0xffff;
        bits += 6;
        if bits >= 8 {
            bits -= 8;
            decoded.push((held >> bits) as u8);
        }
    }
    Some(decoded)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_a_sign_and_nine_digits() {
        assert_eq!(time(b"12"), Some((12, 0)));
        assert_eq!(time(b"12.5"), Some((12, 500_000_000)));
        assert_eq!(time(b"-1.25"), Some((-2, 750_000_000)));
        assert_eq!(time(b"1.0000000019"), Some((1, 1)));
        assert_eq!(time(b"-"), None);
        assert_eq!(time(b"1.-5"), None);
    }

    #[test]
    fn records_tell_their_length() {
        let mut records = Records::default();
        records.merge(b"12 path=abc\n11 size=12\n9 path=\n").unwrap_or_default();
        assert_eq!(records.get(b"size"), Some(&b"12"[..]));
        assert!(records.merge(b"99 path=abc\n").is_err());
        assert!(records.merge(b"99999999999999999999 path=abc\n").is_err());
    }

    #[test]
    fn acls_become_what_the_kernel_stores() {
        let binary = acl(b"user::rw-,user:1000:r--,group::r--,mask::r--,other::---").unwrap();
        assert_eq!(binary.len(), 4 + 5 * 8);
        assert_eq!(binary[4..20], [1, 0, 6, 0, 255, 255, 255, 255, 2, 0, 4, 0, 232, 3, 0, 0]);
        assert_eq!(acl(b"user::rw-,user:lisa:r--"), None);
        assert!(acl(b"user:lisa:r--:1000").is_some());
    }

    #[test]
    fn encoded_attributes_are_decoded() {
        assert_eq!(base64_decoded(b"aGVsbG8=").unwrap(), b"hello");
        assert_eq!(base64_decoded(b"a!"), None);
        assert_eq!(percent_decoded(b"user.a%20b%"), b"user.a b%");
    }
}
