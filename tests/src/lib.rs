//! Drives the real portwatch binary against real sockets, processes and namespaces.
