//! How the operator's memory budget is shared out: the intake's rings, buffers in which chunks are assembled, buffers into which
//! they are decompressed. All of it is taken at the start; nothing of the data path allocates afterwards.

use wire::erasure;
use wire::session::SessionParameters;

const PAGE_BYTES: usize = 4096;

/// Chunks interleaved by the sender, twice: one group that arrives while the one before it is repaired.
pub const ASSEMBLY_BUFFERS_MIN: usize = 32;
/// Buffers into which chunks are decompressed: 8 MiB of raw data being written, at chunks of 256 KiB, are some 3 ms of a disk that
/// takes 3 GB/s, many times the latency of one write; and one for each worker.
const RAW_BUFFERS: usize = 32;

/// What the budget buys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryPlan {
    /// Chunks that can be in assembly, in the finisher's queue or, when they are not compressed, on their way to the disk.
    pub assembly_buffers: usize,
    /// K + R cells of the largest chunk, in whole pages.
    pub assembly_buffer_bytes: usize,
    /// Decompressed chunks on their way to the disk; 0 when nothing is compressed.
    pub raw_buffers: usize,
    /// The largest raw chunk.
    pub raw_buffer_bytes: usize,
}

/// The budget is too small.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "--memory {} MiB is too little for this session: {} MiB would do",
    budget_bytes >> 20,
    needed_bytes.div_ceil(1 << 20)
)]
pub struct TooLittle {
    budget_bytes: usize,
    needed_bytes: usize,
}

impl TooLittle {
    /// The least budget that would do.
    pub fn needed_bytes(&self) -> usize {
        self.needed_bytes
    }
}

impl MemoryPlan {
    /// Shares `budget_bytes` out, of which the intake's rings have taken `intake_bytes`. `compressed`: some chunk has to be
    /// decompressed.
    ///
    /// # Errors
    /// [`TooLittle`] says how much is needed.
    pub fn new(
        budget_bytes: usize,
        intake_bytes: usize,
        parameters: &SessionParameters,
        compressed: bool,
        workers: usize,
    ) -> Result<MemoryPlan, TooLittle> {
        let source_symbols = parameters.source_symbols_max();
        let cells = usize::from(source_symbols) + usize::from(erasure::repair_symbols(source_symbols));
        let assembly_buffer_bytes = (cells * usize::from(parameters.symbol_bytes)).next_multiple_of(PAGE_BYTES);
        let raw_buffer_bytes = (parameters.chunk_bytes_max as usize).next_multiple_of(PAGE_BYTES);
        let raw_buffers = if compressed { RAW_BUFFERS + workers } else { 0 };
        let fixed_bytes = intake_bytes + raw_buffers * raw_buffer_bytes;
        let assembly_buffers = budget_bytes.saturating_sub(fixed_bytes) / assembly_buffer_bytes;
        if assembly_buffers < ASSEMBLY_BUFFERS_MIN {
            return Err(TooLittle { budget_bytes, needed_bytes: fixed_bytes + ASSEMBLY_BUFFERS_MIN * assembly_buffer_bytes });
        }
        Ok(MemoryPlan { assembly_buffers, assembly_buffer_bytes, raw_buffers, raw_buffer_bytes })
    }

    /// What the buffers take.
    pub fn buffer_bytes(&self) -> usize {
        self.assembly_buffers * self.assembly_buffer_bytes + self.raw_buffers * self.raw_buffer_bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use wire::SessionId;

    const PARAMETERS: SessionParameters =
        SessionParameters { session: SessionId(1), symbol_bytes: 1408, chunk_count: 10, chunk_bytes_max: 256 * 1024 };
    const MIB: usize = 1 << 20;

    #[test]
    fn the_default_budget_holds_some_five_hundred_chunks() {
        let plan = MemoryPlan::new(192 * MIB, 16 * MIB, &PARAMETERS, true, 0).unwrap();
        // (187 + 48) x 1408 bytes are 81 pages.
        assert_eq!(
            plan,
            MemoryPlan { assembly_buffers: 530, assembly_buffer_bytes: 81 * 4096, raw_buffers: 32, raw_buffer_bytes: 256 * 1024 }
        );
    }

    #[test]
    fn what_is_not_compressed_needs_no_second_buffer() {
        let plan = MemoryPlan::new(192 * MIB, 16 * MIB, &PARAMETERS, false, 2).unwrap();
        assert_eq!(plan.raw_buffers, 0);
    }

    #[test]
    fn a_budget_that_is_too_small_says_what_would_do() {
        let refused = MemoryPlan::new(10 * MIB, 16 * MIB, &PARAMETERS, true, 0).unwrap_err();
        assert!(MemoryPlan::new(refused.needed_bytes, 16 * MIB, &PARAMETERS, true, 0).is_ok());
        assert!(MemoryPlan::new(refused.needed_bytes - 1, 16 * MIB, &PARAMETERS, true, 0).is_err());
        assert_eq!(refused.to_string(), "--memory 10 MiB is too little for this session: 35 MiB would do");
    }

    proptest! {
        #[test]
        fn a_plan_never_exceeds_its_budget(budget in 0usize..1 << 34, intake in 0usize..1 << 28, compressed: bool, workers in 0usize..64) {
            if let Ok(plan) = MemoryPlan::new(budget, intake, &PARAMETERS, compressed, workers) {
                prop_assert!(plan.buffer_bytes() + intake <= budget);
            }
        }
    }
}
