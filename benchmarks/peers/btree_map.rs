//! The look-up of the Rust crate dbs-device 0.2 with its own containers: a `BTreeMap` of ranges that are ordered by their
//! base, of which the last one that begins at or below the address is taken, one compare with its size, and a call of
//! an `Arc<dyn DeviceIo>`.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::sync::Arc;

pub trait DeviceIo: Send + Sync {
    fn read(&self, base: u64, offset: u64, data: &mut [u8]);
}

struct OffsetDevice {
    // A type of no size would not be allocated, and all devices would share one address.
    _state: u64,
}

impl DeviceIo for OffsetDevice {
    fn read(&self, _base: u64, offset: u64, data: &mut [u8]) {
        if data.len() == 4 {
            data.copy_from_slice(&(offset as u32).to_ne_bytes());
        } else {
            data.fill(offset as u8);
        }
    }
}

#[derive(Clone, Copy)]
pub struct Range {
    base: u64,
    size: u64,
}

impl Ord for Range {
    fn cmp(&self, other: &Self) -> Ordering {
        self.base.cmp(&other.base)
    }
}

impl PartialOrd for Range {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Range {
    fn eq(&self, other: &Self) -> bool {
        self.base == other.base
    }
}

impl Eq for Range {}

pub type Bus = BTreeMap<Range, Arc<dyn DeviceIo>>;

#[no_mangle]
pub extern "C" fn peer_create() -> *mut Bus {
    Box::into_raw(Box::new(Bus::new()))
}

#[no_mangle]
pub unsafe extern "C" fn peer_destroy(bus: *mut Bus) {
    drop(Box::from_raw(bus));
}

#[no_mangle]
pub unsafe extern "C" fn peer_register(bus: *mut Bus, base: u64, size: u64) {
    (*bus).insert(Range { base, size }, Arc::new(OffsetDevice { _state: base }));
}

/// 0: served; 1: the address is unowned.
#[no_mangle]
pub unsafe extern "C" fn peer_read(bus: *const Bus, address: u64, data: *mut u8, size: usize) -> i32 {
    let sought = Range { base: address, size: 0 };
    match (*bus).range(..=sought).next_back() {
        Some((range, device)) if address - range.base < range.size => {
            device.read(range.base, address - range.base, std::slice::from_raw_parts_mut(data, size));
            0
        }
        _ => 1,
    }
}

/// As the crate does at the beginning of a transaction.
#[no_mangle]
pub unsafe extern "C" fn peer_clone_and_drop(bus: *const Bus, times: usize) {
    for _ in 0..times {
        drop(std::hint::black_box((*bus).clone()));
    }
}
