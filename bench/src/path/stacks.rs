//! What `perf script` prints: one stack for each moment at which the processor was looked at.

/// One sample.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Sample {
    pub(super) thread: String,
    pub(super) process_id: u32,
    pub(super) period_ns: u64,
    /// From the innermost function outwards.
    pub(super) frames: Vec<Frame>,
}

/// One function of a stack.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Frame {
    pub(super) symbol: String,
    pub(super) is_kernel: bool,
}

/// What perf is asked to print, which is what [`parse`] reads.
pub(super) const FIELDS: &str = "comm,pid,tid,period,ip,sym,dso";
/// A stack is cut here; the outermost functions are lost.
const FRAMES_MAX: usize = 128;

/// The samples in the text; lines that are not understood are passed over.
pub(super) fn parse(text: &str) -> Vec<Sample> {
    let mut samples: Vec<Sample> = Vec::new();
    for line in text.lines() {
        if line.starts_with(|first: char| first.is_ascii_whitespace()) && !line.trim().is_empty() {
            if let (Some(frame), Some(sample)) = (frame(line), samples.last_mut())
                && sample.frames.len() < FRAMES_MAX
            {
                sample.frames.push(frame);
            }
        } else {
            samples.extend(header(line));
        }
    }
    samples
}

/// `NAME PID/TID PERIOD:`, where the name may have spaces.
fn header(line: &str) -> Option<Sample> {
    let (rest, period) = line.trim_end().trim_end_matches(':').rsplit_once(char::is_whitespace)?;
    let (thread, ids) = rest.trim_end().rsplit_once(char::is_whitespace)?;
    let (process, _) = ids.split_once('/')?;
    Some(Sample {
        thread: thread.trim().to_owned(),
        process_id: process.parse().ok()?,
        period_ns: period.parse().ok()?,
        frames: Vec::new(),
    })
}

/// `ADDRESS SYMBOL (OBJECT)`.
fn frame(line: &str) -> Option<Frame> {
    let (_, rest) = line.trim().split_once(' ')?;
    let (symbol, object) = rest.rsplit_once(" (")?;
    let object = object.trim_end_matches(')');
    let is_kernel =
        object.starts_with("[kernel") || object.starts_with("[guest.kernel") || object.starts_with("bpf_prog") || object.ends_with(".ko");
    Some(Frame { symbol: symbol.to_owned(), is_kernel })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_read_with_their_frames_and_noise_is_passed_over() {
        let text = "discus-transmit 12/34   1003009: \n\tffffffff81000001 __xsk_sendmsg ([kernel.kallsyms])\n\t55d0 core::ops::f<A (B)> (/usr/bin/discus)\n\nnonsense\n two words 7/7 5: \n";
        let samples = parse(text);
        assert_eq!(samples.len(), 1, "a line that begins with a space belongs to a stack");
        assert_eq!((samples[0].thread.as_str(), samples[0].process_id, samples[0].period_ns), ("discus-transmit", 12, 1_003_009));
        let frame = |symbol: &str, is_kernel| Frame { symbol: symbol.to_owned(), is_kernel };
        assert_eq!(samples[0].frames, [frame("__xsk_sendmsg", true), frame("core::ops::f<A (B)>", false)]);
    }

    #[test]
    fn names_of_threads_may_have_spaces() {
        assert_eq!(parse("two words 7/8 5:\n")[0].thread, "two words");
    }
}
