//! The cryptographic core of Strongroom.
