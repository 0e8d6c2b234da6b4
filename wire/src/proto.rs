//! The control-plane schema: messages and gRPC service generated from `wire/proto/discus.proto`.

#[allow(missing_docs, unreachable_pub, clippy::all, clippy::unwrap_used)]
pub mod v1 {
    //! Version 1 of the schema; see the `.proto` file for what each field means.
    tonic::include_proto!("discus.v1");
}

/// Version that both ends state at enrolment. Fields may be added within a version; a change of meaning raises it.
pub const PROTOCOL_VERSION: u32 = 1;
