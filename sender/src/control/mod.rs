//! The control server: enrolment, manifests, reports, completion.
