//! Keeping house: segments are begun, sealed and given back; marks are written and synced; snapshots are taken.

use std::io;
use std::time::Duration;

use super::super::disk::Disk;
use super::super::file::{StoreFile, index_name, log_name, new_header, run_name, segment_name};
use super::super::intake::AppendError;
use super::super::log::{StateLog, write_snapshot};
use super::super::marks::Mark;
use super::super::record::{FILE_HEADER, FileKind};
use super::super::segment_index::SegmentIndex;
use super::super::state::{Entries, Segment, State};
use super::super::{FIRST_HOT, RESERVE_FILE, spare_name};
use super::commit::is_full;
use super::compact::LOOK_AFTER;
use super::kept::bytes_of;
use super::{Active, MARKS_SYNC, MARKS_WRITE, TROUBLE_RETRY, Trouble, Writer, give_up_reserve};

/// Files kept to be written over: syncing written extents costs less than syncing fresh ones.
const SPARES: usize = 2;
/// After so many runs a snapshot is taken: until then, a start holds in memory what they hold.
const UNSAVED_RUNS: usize = 8;

/// A sealed segment's file is cut when more than one in this many parts of it are not used: whole files are worth more,
/// they are written over again.
const UNUSED_SHARE: u64 = 8;

impl Writer {
    /// Everything that is due at this time.
    pub(super) fn keep_house(&mut self, now: Duration) {
        if self.log.has_pending() && now.saturating_sub(self.times.marks_written) >= MARKS_WRITE {
            self.write_marks(now);
        }
        if self.log.has_unsynced() && now.saturating_sub(self.times.marks_synced) >= MARKS_SYNC {
            self.sync_marks();
        }
        self.expire_dead(now);
        self.spill(now);
        if (self.log.needs_successor() || self.runs_need_snapshot()) && self.trouble_is_over(now) {
            self.begin_log(now);
        }
        let may_try =
            !self.drained.is_empty() && self.trouble_is_over(now) && now >= self.times.give_back;
        let may_go = may_try && (defect!(UnlinkBeforeMarks) || self.sync_marks());
        if may_go {
            self.keep_drained();
        }
        if may_go && !self.drained.is_empty() && self.keep_keys(now) {
            self.give_segments_back(now);
        }
        self.let_kept_go(now);
        self.compact(now);
        if self.trouble.is_some() && self.trouble_is_over(now) {
            self.leave_trouble(now);
        }
    }

    pub(super) fn trouble_is_over(&self, now: Duration) -> bool {
        self.trouble.is_none_or(|trouble| now >= trouble.retry_at)
    }

    fn write_marks(&mut self, now: Duration) {
        self.times.marks_written = now;
        let stamp = self.time_stamp();
        match self.log.write(stamp) {
            Ok(written) => self.shared.metrics.written_bytes.increment(written),
            Err(error) => {
                self.in_trouble("write the state log", &error, now);
            }
        }
    }

    /// Makes all marks so far durable, in the log or by a snapshot. Whether that worked.
    pub(super) fn sync_marks(&mut self) -> bool {
        let now = self.clock.monotonic();
        self.times.marks_synced = now;
        self.times.marks_written = now;
        let stamp = self.time_stamp();
        match self.log.sync(stamp) {
            Ok(written) => {
                self.shared.metrics.written_bytes.increment(written);
                true
            }
            Err(_) => self.trouble_is_over(now) && self.begin_log(now),
        }
    }

    /// Begins a new log with a snapshot before it, and removes what they replace. Whether that worked.
    pub(super) fn begin_log(&mut self, now: Duration) -> bool {
        let bytes = self.options.log_bytes();
        let begun = self.with_space_of_kept(bytes, Writer::begin_log_once);
        let begun = begun.or_else(|error| {
            give_up_reserve(&*self.disk, error)?;
            self.begin_log_once()
        });
        match begun {
            Ok(()) => {
                self.times.marks_synced = now;
                self.keep_reserve();
                true
            }
            Err(error) => {
                self.in_trouble("begin a state log", &error, now);
                false
            }
        }
    }

    /// Each try has a number of its own. If a try fails after its snapshot is in place, marks in the old log would be read
    /// no more: so the old log is not written to any further, and the next try begins with all of the state.
    fn begin_log_once(&mut self) -> io::Result<()> {
        self.log_number += 1;
        let number = self.log_number;
        if !defect!(LogKeptAfterSnapshot) {
            self.log.give_up();
        }
        let wall_ms = self.clock.wall_ms();
        let capacity = self.options.log_bytes();
        let log = StateLog::begin(&*self.disk, number, self.rng.u64(..), wall_ms, capacity);
        let stamp = self.time_stamp();
        if defect!(LogsRemovedFirst) {
            super::super::recovery::remove_older(&*self.disk, number);
        }
        let nonce = self.rng.u64(..);
        let begun = log.and_then(|log| {
            Ok((log, write_snapshot(&*self.disk, &self.state, number, nonce, stamp)?))
        });
        match begun {
            Ok((log, written)) => {
                self.shared.metrics.written_bytes.increment(written);
                self.log = log;
                self.forget_older(number);
                Ok(())
            }
            Err(error) => {
                let _ = self.disk.remove(&log_name(number));
                Err(error)
            }
        }
    }

    /// Whether a start would have much to hold in memory without a snapshot, or files of runs wait for one to be removed.
    fn runs_need_snapshot(&self) -> bool {
        let State { schedule, dead, .. } = &self.state;
        schedule.unsaved() + dead.unsaved() >= UNSAVED_RUNS
            || schedule.retired_bytes() + dead.retired_bytes() >= 4 * self.options.log_bytes()
    }

    /// Snapshot `number` is durable: what it replaces, and runs that it does not speak of, can go.
    pub(super) fn forget_older(&mut self, number: u32) {
        super::super::recovery::remove_older(&*self.disk, number);
        let runs = self.state.schedule.saved().into_iter().chain(self.state.dead.saved());
        for run in runs {
            // What stays is removed at the next start.
            let _ = self.disk.remove(&run_name(run));
        }
    }

    /// Writes scheduled deliveries and dead letters to runs while too many are in memory.
    pub(super) fn spill(&mut self, now: Duration) {
        if now >= self.times.spill {
            self.write_runs(now);
        }
        if self.holding_back && !self.state.schedule.is_overfull() {
            self.holding_back = false;
            let streams = self.state.streams.iter().map(|stream| stream.id);
            streams.collect::<Vec<_>>().into_iter().for_each(|id| self.touch(id));
        }
    }

    fn write_runs(&mut self, now: Duration) {
        let written = self.write_run_while(
            |state| state.schedule.is_full(),
            |state, disk, number, nonce| state.schedule.spill(disk, number, nonce),
        );
        let written = written.and_then(|()| {
            self.write_run_while(
                |state| state.dead.is_full(),
                |state, disk, number, nonce| state.dead.spill(disk, number, nonce),
            )
        });
        if let Err(error) = written {
            self.shared.metrics.errors.increment(1);
            tracing::warn!(%error, "Could not write scheduled or dead deliveries to a file; they stay in memory and it is tried again");
            self.times.spill = now + TROUBLE_RETRY;
        }
    }

    fn write_run_while(
        &mut self,
        full: impl Fn(&State) -> bool,
        spill: impl Fn(&mut State, &dyn Disk, u32, u64) -> io::Result<u64>,
    ) -> io::Result<()> {
        while full(&self.state) {
            let (number, nonce) = (self.next_run, self.rng.u64(..));
            self.next_run += 1;
            let written = spill(&mut self.state, &*self.disk, number, nonce)?;
            if defect!(RunRemovedFirst) {
                self.forget_older(self.log_number);
            }
            if written == 0 {
                // So many connections have one each that there is no later half.
                break;
            }
            self.shared.metrics.written_bytes.increment(written);
        }
        Ok(())
    }

    /// Makes sure that the active segment has room for `bytes`.
    pub(super) fn make_room(&mut self, bytes: usize, now: Duration) -> Result<(), AppendError> {
        if let Some(trouble) = self.trouble {
            return Err(if trouble.full { AppendError::Full } else { AppendError::Failed });
        }
        let bytes = bytes as u64;
        if bytes + FILE_HEADER > self.options.segment_bytes {
            return Err(AppendError::Full);
        }
        if let Some(active) = self.active.take() {
            if self.has_room(&active, bytes) {
                self.active = Some(active);
                return Ok(());
            }
            self.seal_full(active);
        }
        self.begin_segment().map_err(|error| self.in_trouble("begin a segment", &error, now))
    }

    /// Whether `bytes` may be appended to a segment: its file has room, and so has its index in memory.
    pub(super) fn has_room(&self, open: &Active, bytes: u64) -> bool {
        open.end + bytes <= open.file_bytes && !self.index_is_full(open.number)
    }

    fn index_is_full(&self, number: u32) -> bool {
        match self.state.segments.get(&number).map(|segment| &segment.entries) {
            Some(Entries::Memory(index)) => index.bytes() >= self.index_bytes,
            _ => false,
        }
    }

    /// Completes a segment that has no room. If it is its index that is full, the disk gets back what the file has not
    /// used; a crash may undo that, and nothing depends on it.
    pub(super) fn seal_full(&mut self, open: Active) {
        let (number, file, end) = (open.number, open.file.clone(), open.end);
        let unused = open.file_bytes - end;
        let cut = self.index_is_full(number) && unused > open.file_bytes / UNUSED_SHARE;
        self.seal(open);
        if !cut {
            return;
        }
        // Synced, so that a power cut does not take back space that something else has got.
        match file.file.set_len(end).and_then(|()| file.file.sync_data()) {
            Ok(()) => {
                if let Some(segment) = self.state.segments.get_mut(&number) {
                    segment.file_bytes = end;
                }
            }
            Err(error) => {
                tracing::warn!(%error, segment = number, "Could not cut a segment's file to what is in it.");
            }
        }
    }

    /// Completes a segment: nothing is appended to it any more.
    pub(super) fn seal(&mut self, active: Active) {
        self.log.note(&Mark::Sealed { segment: active.number, end: active.end });
        self.sync_marks();
        let Some(segment) = self.state.segments.get_mut(&active.number) else {
            return;
        };
        segment.end = active.end;
        self.times.look_for_sparse.get_or_insert(self.times.marks_synced + LOOK_AFTER);
        if let Entries::Memory(index) = &mut segment.entries {
            index.end = active.end;
            match index.write(&*self.disk, &active.file) {
                Ok(written) => {
                    self.shared.metrics.written_bytes.increment(written);
                    if let Some((file, _)) = SegmentIndex::read(&*self.disk, &active.file) {
                        segment.index_bytes = written;
                        segment.entries = Entries::File(file);
                    }
                }
                Err(error) => {
                    self.shared.metrics.errors.increment(1);
                    tracing::warn!(%error, segment = active.number, "Could not write a segment's index; it stays in memory.");
                }
            }
        }
        if segment.live == 0 {
            self.drained.push(active.number);
        }
    }

    /// Begins the segment that grows.
    pub(super) fn begin_segment(&mut self) -> io::Result<()> {
        self.active = Some(self.create_and_start(self.next_segment, self.options.segment_bytes)?);
        self.next_segment += 1;
        self.publish_sizes();
        Ok(())
    }

    /// A new segment, durable, empty, and known. Takes the space of kept ones when there is no other.
    pub(super) fn create_and_start(&mut self, number: u32, bytes: u64) -> io::Result<Active> {
        self.with_space_of_kept(bytes, |writer| writer.try_create(number, bytes))
    }

    fn try_create(&mut self, number: u32, bytes: u64) -> io::Result<Active> {
        let name = segment_name(number);
        let file = match self.take_spare(&name, bytes) {
            Some(file) => file,
            None => {
                if self.bytes_on_disk() + bytes > self.room_for(number) {
                    return Err(io::Error::new(
                        io::ErrorKind::StorageFull,
                        "[store] max_bytes is reached",
                    ));
                }
                self.create_segment(&name, bytes)?
            }
        };
        let header = new_header(FileKind::Segment, number, self.rng.u64(..), self.clock.wall_ms());
        let file = StoreFile::start(file, header)?;
        self.disk.sync_dir()?;
        let file_bytes = file.file.length()?;
        self.files.insert(number, file.clone());
        self.state.segments.insert(number, Segment::new(file_bytes));
        Ok(Active { number, file, end: FILE_HEADER, file_bytes, commit: 0 })
    }

    /// The cap for a new segment. New events leave room for one cold segment: without it a store that is full of old
    /// segments with little in them could never be made smaller.
    fn room_for(&self, number: u32) -> u64 {
        let kept =
            if number < FIRST_HOT || self.cold.is_some() { 0 } else { self.options.cold_bytes() };
        self.options.max_bytes.saturating_sub(kept)
    }

    /// A given-back file under a new name. One of another size, left by another configuration, is removed.
    fn take_spare(
        &mut self,
        name: &str,
        bytes: u64,
    ) -> Option<std::sync::Arc<dyn super::super::disk::DiskFile>> {
        // Spares are whole segments; a cold one is smaller.
        if bytes != self.options.segment_bytes {
            return None;
        }
        while let Some(number) = self.spares.pop() {
            let spare = spare_name(number);
            let file = self.disk.rename(&spare, name).and_then(|()| self.disk.open(name)).ok()?;
            if file.length().ok()? == bytes {
                return Some(file);
            }
            self.disk.remove(name).ok()?;
        }
        None
    }

    fn create_segment(
        &self,
        name: &str,
        bytes: u64,
    ) -> io::Result<std::sync::Arc<dyn super::super::disk::DiskFile>> {
        // A file of this name is left by a try that failed: nothing in it was ever acknowledged.
        let _ = self.disk.remove(name);
        let file = self.disk.create(name)?;
        if let Err(error) = file.allocate(bytes) {
            let _ = self.disk.remove(name);
            return Err(error);
        }
        Ok(file)
    }

    /// Gives back segments that hold nothing live. Their marks are durable.
    ///
    /// **Invariant:** while its file is there, a segment is part of the state: a snapshot without it would let the next
    /// start deliver all of it again.
    pub(super) fn give_segments_back(&mut self, now: Duration) {
        for number in std::mem::take(&mut self.drained) {
            let Some(segment) = self.state.segments.get(&number) else {
                continue;
            };
            if segment.live > 0 {
                continue;
            }
            if let Err(error) = self.give_file_back(number, segment.file_bytes) {
                self.shared.metrics.errors.increment(1);
                tracing::warn!(%error, segment = number, "Could not remove a drained segment; it is tried again");
                self.times.give_back = now + TROUBLE_RETRY;
                self.drained.push(number);
                continue;
            }
            self.state.segments.remove(&number);
            self.files.remove(number);
            let _ = self.disk.remove(&index_name(number));
        }
        self.publish_sizes();
        if let Some(trouble) = &mut self.trouble {
            // There may be space now.
            trouble.retry_at = Duration::ZERO;
        }
    }

    /// Keeps a segment's file to be written over, or removes it.
    fn give_file_back(&mut self, number: u32, file_bytes: u64) -> io::Result<()> {
        let name = segment_name(number);
        let wanted = file_bytes == self.options.segment_bytes && self.spares.len() < SPARES;
        if wanted && self.disk.rename(&name, &spare_name(number)).is_ok() {
            self.spares.push(number);
            return Ok(());
        }
        self.disk.remove(&name)
    }

    /// Bytes that the store's files take: segments, their indexes, spares, and room for log, snapshot and reserve.
    pub(super) fn bytes_on_disk(&self) -> u64 {
        let segments: u64 = self.state.segments.values().map(bytes_of).sum();
        let spares = self.spares.len() as u64 * self.options.segment_bytes;
        let runs = self.state.schedule.file_bytes() + self.state.dead.file_bytes();
        segments + spares + runs + 4 * self.options.log_bytes() + self.key_log.bytes()
    }

    pub(super) fn publish_sizes(&self) {
        let bytes = self.bytes_on_disk();
        let kept = self.kept.bytes();
        // What is only kept is given up for new events.
        let needed = bytes.saturating_sub(kept);
        let free = self.disk.free_bytes().unwrap_or(u64::MAX).saturating_add(kept);
        self.shared.metrics.kept_bytes.set(kept as f64);
        self.shared.metrics.bytes.set(bytes as f64);
        self.shared.metrics.segments.set(self.state.segments.len() as f64);
        self.shared
            .metrics
            .free_bytes
            .set(self.options.max_bytes.saturating_sub(needed).min(free) as f64);
    }

    /// Notes that the disk failed, says so once, and gives the answer for those who wait.
    pub(super) fn in_trouble(
        &mut self,
        doing: &str,
        error: &io::Error,
        now: Duration,
    ) -> AppendError {
        self.shared.metrics.errors.increment(1);
        let full = is_full(error);
        if self.trouble.is_none_or(|trouble| trouble.full != full) {
            if full {
                tracing::error!(%error, "The store is full: new events are refused with 507, deliveries go on.");
            } else {
                tracing::error!(%error, "Could not {doing}: new events are refused with 503, and it is tried again.");
            }
        }
        self.trouble = Some(Trouble { full, retry_at: now + TROUBLE_RETRY });
        if full { AppendError::Full } else { AppendError::Failed }
    }

    /// Tries to take events again.
    fn leave_trouble(&mut self, now: Duration) {
        self.keep_reserve();
        let tried = if self.active.is_some() { Ok(()) } else { self.begin_segment() };
        match tried {
            Ok(()) if !self.log.needs_successor() => {
                self.trouble = None;
                tracing::info!("The store takes events again.");
            }
            Ok(()) => {
                self.trouble =
                    self.trouble.map(|trouble| Trouble { retry_at: now + TROUBLE_RETRY, ..trouble })
            }
            Err(error) => {
                self.in_trouble("begin a segment", &error, now);
            }
        }
    }

    /// Keeps disk space for a snapshot and a log, for when the disk is full.
    pub(super) fn keep_reserve(&self) {
        let create = self.disk.create(RESERVE_FILE);
        let file = create.or_else(|error| match error.kind() {
            // A crash may have left it empty: its space is asked for again.
            io::ErrorKind::AlreadyExists => self.disk.open(RESERVE_FILE),
            _ => Err(error),
        });
        let wanted = self.options.log_bytes() * 2;
        let reserved = file.and_then(|file| {
            if file.length()? < wanted {
                file.allocate(wanted)?;
                file.sync_data()?;
                self.disk.sync_dir()?;
            }
            Ok(())
        });
        if reserved.is_err() {
            let _ = self.disk.remove(RESERVE_FILE);
        }
    }

    /// A clean stop: refuse what waits, make all marks durable, leave a snapshot that the next start reads fast.
    pub(super) fn stop(&mut self) {
        self.take_returned();
        while let Some(append) = self.buffers.put_off.take().or_else(|| self.intake.queue.pop()) {
            append.give_back_room();
            if let Some(lane) = self.intake.lanes.get(append.lane) {
                let closed = Err(AppendError::Closed);
                lane.send(&mut append.reply.into_iter().map(|reply| (reply, closed)).collect());
            }
        }
        for open in [self.active.take(), self.cold.take()].into_iter().flatten() {
            self.seal(open);
        }
        self.sync_marks();
        let now = self.clock.monotonic();
        self.begin_log(now);
        self.stopping = true;
    }
}
