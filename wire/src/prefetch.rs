//! Memory into the cache before it is looked at. Packets lie in frames of their own that another core or a card has just written, or the disk some time ago: what a
//! processor fetches ahead by itself ends with each of them.
#![allow(unsafe_code)]

/// Bytes of a cache line: of x86-64 and nearly all 64-bit Arm.
const LINE_BYTES: usize = 64;

/// Has the processor fetch `bytes`, which will be read soon. Nothing on processors for which nobody has written it.
#[inline]
pub fn prefetch(bytes: &[u8]) {
    #[cfg(target_arch = "x86_64")]
    for line in bytes.chunks(LINE_BYTES) {
        // SAFETY: a hint, which faults at no address and changes no content.
        unsafe { std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(line.as_ptr().cast()) };
    }
    #[cfg(target_arch = "aarch64")]
    for line in bytes.chunks(LINE_BYTES) {
        // SAFETY: as above.
        unsafe { std::arch::asm!("prfm pldl1keep, [{line}]", line = in(reg) line.as_ptr(), options(nostack, preserves_flags, readonly)) };
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    let _ = bytes;
}
