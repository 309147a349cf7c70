//! Reads the rings of flow records, one for each CPU, through `mmap`.

use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context as _, Result};
use monitor_ebpf::wire::{FlowRecord, Header, RingEnds};
use zerocopy::IntoBytes as _;

use crate::kernel::layout::Layout;
use crate::sys::{Mapping, WritableMapping};

const WORDS: usize = size_of::<FlowRecord>() / size_of::<u64>();
const ENDS_WORDS: usize = size_of::<RingEnds>() / size_of::<u64>();
/// Positions among the words of two ends, and of a record.
const WRITTEN: usize = std::mem::offset_of!(RingEnds, written) / size_of::<u64>();
const FIRST: usize = std::mem::offset_of!(RingEnds, first) / size_of::<u64>();
const READ: usize = std::mem::offset_of!(RingEnds, read) / size_of::<u64>();
const TIME: usize = (std::mem::offset_of!(FlowRecord, header)
    + std::mem::offset_of!(Header, ktime_ns))
    / size_of::<u64>();

/// The flow records of all CPUs, in the order of their times.
#[derive(Debug)]
pub(super) struct FlowRing {
    records: Mapping,
    ends: WritableMapping,
    cpus: Vec<Cpu>,
    /// Records that the ring of a CPU holds; a power of two.
    capacity: usize,
    /// The record that was taken last.
    record: [u64; WORDS],
}

/// The ring of one CPU.
#[derive(Clone, Copy, Debug)]
struct Cpu {
    /// Records taken.
    read: u64,
    /// Records there were when that was last looked at.
    written: u64,
    /// The record in the first place.
    first: u64,
    /// The time of the first record that was not taken; the end of time where there is none.
    oldest_ns: u64,
}

impl FlowRing {
    /// Maps what is behind `pw_flow_ring` and `pw_flow_ends`, and goes on where it was last read.
    pub(super) fn new(
        records: BorrowedFd<'_>,
        ends: BorrowedFd<'_>,
        layout: Layout,
    ) -> Result<Self> {
        let (cpus, capacity) = (layout.cpus as usize, layout.flow_ring as usize);
        let records =
            Mapping::new(records, cpus * capacity * WORDS).context("mapping pw_flow_ring")?;
        let ends = WritableMapping::new(ends, cpus * ENDS_WORDS).context("mapping pw_flow_ends")?;
        wait_for_stores().context("waiting for what other CPUs write (membarrier)")?;
        let cpus = (0..cpus).map(|number| {
            let read = load(ends.words(), number * ENDS_WORDS + READ, Ordering::Relaxed);
            Cpu { read, written: read, first: read, oldest_ns: u64::MAX }
        });
        let cpus = cpus.collect();
        Ok(Self { records, ends, cpus, capacity, record: [0; WORDS] })
    }

    /// Looks what was written by now. Every record that was submitted before is seen.
    pub(super) fn look(&mut self) {
        let mut is_more = false;
        for (cpu, ends) in self.cpus.iter_mut().zip(self.ends.words().chunks_exact(ENDS_WORDS)) {
            let written = load(ends, WRITTEN, Ordering::Acquire);
            // No more than there is room for, whatever lies there.
            let unread = written.wrapping_sub(cpu.read).min(self.capacity as u64);
            let written = cpu.read.wrapping_add(unread);
            is_more |= cpu.written != written;
            cpu.written = written;
        }
        if is_more && wait_for_stores().is_ok() {
            (0..self.cpus.len()).for_each(|number| self.find_oldest(number));
        }
    }

    /// Takes the oldest of the records that were there at the last look, if it is not newer than
    /// `until_ns`. False: there is none.
    pub(super) fn take(&mut self, until_ns: u64) -> bool {
        let oldest = self.cpus.iter_mut().enumerate().min_by_key(|(_, cpu)| cpu.oldest_ns);
        let Some((number, cpu)) = oldest else { return false };
        if cpu.read == cpu.written || cpu.oldest_ns > until_ns {
            return false;
        }
        let start = cpu.place(number, self.capacity);
        cpu.read = cpu.read.wrapping_add(1);
        let words = self.records.words().get(start..start + WORDS).unwrap_or_default();
        for (to, from) in self.record.iter_mut().zip(words) {
            *to = from.load(Ordering::Relaxed);
        }
        self.find_oldest(number);
        true
    }

    /// The record that was taken last.
    pub(super) fn taken(&self) -> &[u8] {
        self.record.as_bytes()
    }

    /// Lets the kernel write where records were taken.
    pub(super) fn give_back(&self) {
        for (cpu, ends) in self.cpus.iter().zip(self.ends.words().chunks_exact(ENDS_WORDS)) {
            if let Some(read) = ends.get(READ)
                && read.load(Ordering::Relaxed) != cpu.read
            {
                read.store(cpu.read, Ordering::Release);
            }
        }
    }

    /// How many records the ring of a CPU holds.
    pub(super) const fn capacity(&self) -> usize {
        self.capacity
    }

    fn find_oldest(&mut self, number: usize) {
        let Some(cpu) = self.cpus.get_mut(number) else { return };
        cpu.oldest_ns = if cpu.read == cpu.written {
            u64::MAX
        } else {
            // Moved only while nothing is unread.
            cpu.first = load(self.ends.words(), number * ENDS_WORDS + FIRST, Ordering::Relaxed);
            let start = cpu.place(number, self.capacity);
            load(self.records.words(), start + TIME, Ordering::Relaxed)
        };
    }
}

impl Cpu {
    /// Where the first record that was not taken begins, among the words of the rings of all CPUs, of
    /// which this one has that `number`.
    const fn place(self, number: usize, capacity: usize) -> usize {
        #[expect(clippy::cast_possible_truncation, reason = "below a capacity of 32 bits")]
        let from_first = (self.read.wrapping_sub(self.first) % capacity as u64) as usize;
        (number * capacity + from_first) * WORDS
    }
}

fn load(words: &[AtomicU64], position: usize, order: Ordering) -> u64 {
    words.get(position).map_or(0, |word| word.load(order))
}

/// Returns when other CPUs see the stores before one that we have seen as well.
///
/// x86 makes no store visible before an earlier one. Elsewhere a record could be seen as written before
/// its words are, and BPF has no barrier on kernels before 6.15: this waits until every CPU has left the
/// kernel code that it ran, 25 times a second while flows come.
#[cfg(target_arch = "x86_64")]
#[expect(clippy::unnecessary_wraps, reason = "other processors can fail")]
const fn wait_for_stores() -> std::io::Result<()> {
    Ok(())
}

/// See above.
#[cfg(not(target_arch = "x86_64"))]
fn wait_for_stores() -> std::io::Result<()> {
    Ok(rustix::thread::membarrier(rustix::thread::MembarrierCommand::Global)?)
}

#[cfg(test)]
mod tests {
    use std::os::fd::{AsFd as _, OwnedFd};

    use monitor_ebpf::wire::FlowRecord;
    use proptest::prelude::*;
    use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
    use zerocopy::{FromBytes as _, FromZeros as _};

    use super::*;

    const CPUS: u32 = 3;
    const CAPACITY: u32 = 4;

    /// The kernel's end of the rings.
    struct Kernel {
        records: WritableMapping,
        ends: WritableMapping,
        clock: u64,
    }

    impl Kernel {
        /// Writes a record, if there is room; its time.
        fn write(&mut self, cpu: usize) -> Option<u64> {
            let ends = &self.ends.words()[cpu * ENDS_WORDS..];
            let written = ends[WRITTEN].load(Ordering::Relaxed);
            match written.wrapping_sub(ends[READ].load(Ordering::Relaxed)) {
                0 => ends[FIRST].store(written, Ordering::Relaxed),
                unread if unread >= u64::from(CAPACITY) => return None,
                _ => {}
            }
            let place =
                written.wrapping_sub(ends[FIRST].load(Ordering::Relaxed)) % u64::from(CAPACITY);
            self.clock += 1;
            let mut record = FlowRecord::new_zeroed();
            record.header.ktime_ns = self.clock;
            record.slot = u32::try_from(cpu).unwrap();
            let words: [u64; WORDS] = zerocopy::transmute!(record);
            let start = (cpu * CAPACITY as usize + usize::try_from(place).unwrap()) * WORDS;
            for (to, from) in self.records.words()[start..].iter().zip(words) {
                to.store(from, Ordering::Relaxed);
            }
            ends[WRITTEN].store(written.wrapping_add(1), Ordering::Release);
            Some(self.clock)
        }
    }

    /// Rings whose counters begin at `first`.
    fn rings(first: u64) -> (Kernel, FlowRing) {
        let words = |count: usize| -> OwnedFd {
            let file = memfd_create("rings", MemfdFlags::CLOEXEC).unwrap();
            ftruncate(&file, (count * size_of::<u64>()) as u64).unwrap();
            file
        };
        let (record_words, end_words) =
            ((CPUS * CAPACITY) as usize * WORDS, CPUS as usize * ENDS_WORDS);
        let (records, ends) = (words(record_words), words(end_words));
        let kernel = Kernel {
            records: WritableMapping::new(records.as_fd(), record_words).unwrap(),
            ends: WritableMapping::new(ends.as_fd(), end_words).unwrap(),
            clock: 0,
        };
        for ends in kernel.ends.words().chunks_exact(ENDS_WORDS) {
            ends[WRITTEN].store(first, Ordering::Relaxed);
            ends[READ].store(first, Ordering::Relaxed);
        }
        let layout = Layout {
            cpus: CPUS,
            sets: 4,
            total_rows: 2,
            flow_ring: CAPACITY,
            sample_ring_bytes: 4096,
        };
        let ring = FlowRing::new(records.as_fd(), ends.as_fd(), layout).unwrap();
        (kernel, ring)
    }

    /// The times of all that can be taken.
    fn take_all(ring: &mut FlowRing, until_ns: u64) -> Vec<u64> {
        let mut times = Vec::new();
        while ring.take(until_ns) {
            let record = FlowRecord::read_from_bytes(ring.taken()).unwrap();
            times.push(record.header.ktime_ns);
        }
        times
    }

    #[test]
    fn records_come_in_the_order_of_their_times_whichever_cpu_wrote_them() {
        let (mut kernel, mut ring) = rings(0);
        for cpu in [2, 0, 1, 1, 2] {
            kernel.write(cpu);
        }
        ring.look();

        assert_eq!(take_all(&mut ring, 3), [1, 2, 3]);
        assert_eq!(take_all(&mut ring, u64::MAX), [4, 5]);
    }

    #[test]
    fn what_was_written_since_the_last_look_is_not_taken() {
        let (mut kernel, mut ring) = rings(0);
        kernel.write(0);
        ring.look();
        kernel.write(0);

        assert_eq!(take_all(&mut ring, u64::MAX), [1]);
        ring.look();
        assert_eq!(take_all(&mut ring, u64::MAX), [2]);
    }

    #[test]
    fn a_place_is_written_again_only_after_it_was_given_back() {
        let (mut kernel, mut ring) = rings(u64::MAX - 1);
        let written = std::iter::from_fn(|| kernel.write(1)).count();
        assert_eq!(written, CAPACITY as usize);
        ring.look();
        assert_eq!(take_all(&mut ring, u64::MAX), [1, 2, 3, 4]);

        assert_eq!(kernel.write(1), None);
        ring.give_back();
        assert_eq!(kernel.write(1), Some(5));
        ring.look();
        assert_eq!(take_all(&mut ring, u64::MAX), [5]);
    }

    #[test]
    fn ends_that_contradict_each_other_are_no_reason_to_read_forever() {
        let (kernel, mut ring) = rings(0);
        kernel.ends.words()[WRITTEN].store(1 << 60, Ordering::Relaxed);
        ring.look();

        assert_eq!(take_all(&mut ring, u64::MAX).len(), CAPACITY as usize);
    }

    proptest! {
        #[test]
        fn nothing_is_lost_and_nothing_told_twice(
            first in prop_oneof![Just(0), Just(u64::MAX - 5)],
            steps in prop::collection::vec(prop_oneof![
                (0..CPUS as usize).prop_map(Some),
                Just(None),
            ], 0..200),
        ) {
            let (mut kernel, mut ring) = rings(first);
            let (mut written, mut taken) = (Vec::new(), Vec::new());
            for step in steps {
                if let Some(cpu) = step {
                    written.extend(kernel.write(cpu));
                } else {
                    ring.look();
                    taken.extend(take_all(&mut ring, u64::MAX));
                    ring.give_back();
                }
            }
            ring.look();
            taken.extend(take_all(&mut ring, u64::MAX));

            prop_assert_eq!(taken, written);
        }
    }
}
