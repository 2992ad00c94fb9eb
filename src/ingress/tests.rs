//! Ingress over real sockets, with a store that answers from memory.
