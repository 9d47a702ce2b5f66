//! Run-time dispatch and the few intrinsics that the kernels share: the only module with unsafe code.
