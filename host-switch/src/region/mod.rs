//! The shared memory of a domain and of an endpoint.
