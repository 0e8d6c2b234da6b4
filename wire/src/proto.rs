//! The control-plane schema: messages and gRPC service generated from `wire/proto/discus.proto`.

#[allow(missing_docs, unreachable_pub, clippy::all, clippy::unwrap_used)]
pub mod v1 {
    //! Version 1 of the schema; see the `.proto` file for what each field means.
    tonic::include_proto!("discus.v1");
}

/// Version that both ends state at enrolment. Fields may be added within a version; a change of meaning raises it.
pub const PROTOCOL_VERSION: u32 = 1;

/// TCP port of the control plane, when the operator names none. The data streams' default UDP port has the same number.
pub const CONTROL_PORT_DEFAULT: u16 = 4700;

/// Largest message that either end takes. The largest report: [`crate::report::DEFICITS_PER_REPORT_MAX`] deficits of at most 64 bytes
/// (256 KiB) and [`crate::report::RANGES_PER_REPORT_MAX`] runs of at most 16 bytes (256 KiB). Manifest parts and want sets are cut to fit.
pub const MESSAGE_BYTES_MAX: usize = 1024 * 1024;
