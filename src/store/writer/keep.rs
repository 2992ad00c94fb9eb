//! Keeping house: segments are begun, sealed and given back; marks are written and synced; snapshots are taken.

use std::io;
use std::time::Duration;

use super::super::file::{StoreFile, index_name, new_header, segment_name};
use super::super::intake::AppendError;
use super::super::log::{StateLog, write_snapshot};
use super::super::marks::Mark;
use super::super::record::{FILE_HEADER, FileKind};
use super::super::segment_index::SegmentIndex;
use super::super::state::{Entries, Segment};
use super::super::{RESERVE_FILE, spare_name};
use super::commit::is_full;
use super::{Active, MARKS_SYNC, MARKS_WRITE, TROUBLE_RETRY, Trouble, Writer};

/// Files kept to be written over: syncing written extents costs less than syncing fresh ones.
const SPARES: usize = 2;

impl Writer {
    /// Everything that is due at this time.
    pub(super) fn keep_house(&mut self, now: Duration) {
        if self.log.has_pending() && now.saturating_sub(self.times.marks_written) >= MARKS_WRITE {
            self.write_marks(now);
        }
        if self.log.has_unsynced() && now.saturating_sub(self.times.marks_synced) >= MARKS_SYNC {
            self.sync_marks();
        }
        if self.log.needs_successor() && self.trouble_is_over(now) {
            self.begin_log(now);
        }
        if !self.drained.is_empty()
            && now >= self.times.give_back
            && (defect!(UnlinkBeforeMarks) || self.sync_marks())
        {
            self.give_segments_back(now);
        }
        if self.trouble.is_some() && self.trouble_is_over(now) {
            self.leave_trouble(now);
        }
    }

    fn trouble_is_over(&self, now: Duration) -> bool {
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

    /// Makes all marks so far durable. Whether that worked.
    pub(super) fn sync_marks(&mut self) -> bool {
        let now = self.clock.monotonic();
        self.times.marks_synced = now;
        self.times.marks_written = now;
        let stamp = self.time_stamp();
        let synced = self.log.sync(stamp);
        match synced {
            Ok(written) => self.shared.metrics.written_bytes.increment(written),
            Err(_) => self.begin_log(now),
        }
        !self.log.needs_successor() || !self.log.has_pending() && !self.log.has_unsynced()
    }

    /// Begins a new log with a snapshot before it, and removes what they replace.
    pub(super) fn begin_log(&mut self, now: Duration) {
        let number = self.log.number() + 1;
        let begun = self.begin_log_at(number).or_else(|error| {
            // The reserve is there for this.
            if is_full(&error) && self.disk.remove(RESERVE_FILE).is_ok() {
                self.begin_log_at(number)
            } else {
                Err(error)
            }
        });
        match begun {
            Ok(()) => self.times.marks_synced = now,
            Err(error) => {
                self.in_trouble("begin a state log", &error, now);
            }
        }
    }

    fn begin_log_at(&mut self, number: u32) -> io::Result<()> {
        let wall_ms = self.clock.wall_ms();
        let capacity = self.options.log_bytes();
        let log = StateLog::begin(&*self.disk, number, self.rng.u64(..), wall_ms, capacity)?;
        let stamp = self.time_stamp();
        if defect!(LogsRemovedFirst) {
            super::super::recovery::remove_older(&*self.disk, number);
        }
        let nonce = self.rng.u64(..);
        let written = write_snapshot(&*self.disk, &self.state, number, nonce, stamp);
        let written = written.inspect_err(|_| {
            if !defect!(LogKeptAfterSnapshot) {
                self.log.break_off();
            }
        })?;
        self.shared.metrics.written_bytes.increment(written);
        self.log = log;
        super::super::recovery::remove_older(&*self.disk, number);
        Ok(())
    }

    /// Makes sure that the active segment has room for `bytes`.
    pub(super) fn make_room(&mut self, bytes: usize, now: Duration) -> Result<(), AppendError> {
        if let Some(trouble) = self.trouble {
            return Err(if trouble.full {
                AppendError::Full
            } else {
                AppendError::Failed
            });
        }
        let bytes = bytes as u64;
        if bytes + FILE_HEADER > self.options.segment_bytes {
            return Err(AppendError::Full);
        }
        if self
            .active
            .as_ref()
            .is_some_and(|active| active.end + bytes <= active.file_bytes)
        {
            return Ok(());
        }
        if let Some(active) = self.active.take() {
            self.seal(active);
        }
        self.begin_segment()
            .map_err(|error| self.in_trouble("begin a segment", &error, now))
    }

    /// Completes a segment: nothing is appended to it any more.
    pub(super) fn seal(&mut self, active: Active) {
        self.log.note(&Mark::Sealed {
            segment: active.number,
            end: active.end,
        });
        self.sync_marks();
        let Some(segment) = self.state.segments.get_mut(&active.number) else {
            return;
        };
        segment.end = active.end;
        if let Entries::Memory(index) = &mut segment.entries {
            index.end = active.end;
            match index.write(&*self.disk, &active.file) {
                Ok(()) => {
                    if let Some((file, _, starts)) = SegmentIndex::read(&*self.disk, &active.file) {
                        segment.entries = Entries::File(file, starts);
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
        let number = self.next_segment;
        let bytes = self.options.segment_bytes;
        let name = segment_name(number);
        let file = match self.take_spare(&name) {
            Some(file) => file,
            None => {
                if self.bytes_on_disk() + bytes > self.options.max_bytes {
                    return Err(io::Error::new(
                        io::ErrorKind::StorageFull,
                        "[store] max_bytes is reached",
                    ));
                }
                self.create_segment(&name, bytes)?
            }
        };
        let header = new_header(
            FileKind::Segment,
            number,
            self.rng.u64(..),
            self.clock.wall_ms(),
        );
        let file = StoreFile::start(file, header)?;
        self.disk.sync_dir()?;
        self.next_segment += 1;
        let file_bytes = file.file.length()?;
        self.files.insert(number, file.clone());
        self.state.segments.insert(number, Segment::new(file_bytes));
        self.active = Some(Active {
            number,
            file,
            end: FILE_HEADER,
            file_bytes,
            commit: 0,
        });
        self.publish_sizes();
        Ok(())
    }

    fn take_spare(
        &mut self,
        name: &str,
    ) -> Option<std::sync::Arc<dyn super::super::disk::DiskFile>> {
        let spare = spare_name(self.spares.pop()?);
        self.disk.rename(&spare, name).ok()?;
        self.disk.open(name).ok()
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
    fn give_segments_back(&mut self, now: Duration) {
        for number in std::mem::take(&mut self.drained) {
            let Some(segment) = self.state.segments.get(&number) else {
                continue;
            };
            if segment.live > 0 {
                continue;
            }
            let same_size = segment.file_bytes == self.options.segment_bytes;
            if let Err(error) = self.give_file_back(number, same_size) {
                self.shared.metrics.errors.increment(1);
                tracing::warn!(%error, segment = number, "Could not remove a drained segment; it is tried again.");
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

    /// Keeps a drained segment's file as a spare, or removes it.
    fn give_file_back(&mut self, number: u32, same_size: bool) -> io::Result<()> {
        let name = segment_name(number);
        let spare = same_size
            && self.spares.len() < SPARES
            && self.disk.rename(&name, &spare_name(number)).is_ok();
        if spare {
            self.spares.push(number);
            return Ok(());
        }
        self.disk.remove(&name)
    }

    /// Bytes that the store's files take.
    pub(super) fn bytes_on_disk(&self) -> u64 {
        let segments: u64 = self
            .state
            .segments
            .values()
            .map(|segment| segment.file_bytes)
            .sum();
        let spares = self.spares.len() as u64 * self.options.segment_bytes;
        segments + spares + 3 * self.options.log_bytes()
    }

    pub(super) fn publish_sizes(&self) {
        let bytes = self.bytes_on_disk();
        let free = self.disk.free_bytes().unwrap_or(u64::MAX);
        self.shared.metrics.bytes.set(bytes as f64);
        self.shared
            .metrics
            .segments
            .set(self.state.segments.len() as f64);
        self.shared
            .metrics
            .free_bytes
            .set(self.options.max_bytes.saturating_sub(bytes).min(free) as f64);
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
        self.trouble = Some(Trouble {
            full,
            retry_at: now + TROUBLE_RETRY,
        });
        if full {
            AppendError::Full
        } else {
            AppendError::Failed
        }
    }

    /// Tries to take events again.
    fn leave_trouble(&mut self, now: Duration) {
        self.keep_reserve();
        let tried = if self.active.is_some() {
            Ok(())
        } else {
            self.begin_segment()
        };
        match tried {
            Ok(()) if !self.log.needs_successor() => {
                self.trouble = None;
                tracing::info!("The store takes events again.");
            }
            Ok(()) => {
                self.trouble = self.trouble.map(|trouble| Trouble {
                    retry_at: now + TROUBLE_RETRY,
                    ..trouble
                })
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
        while let Some(append) = self.intake.queue.pop() {
            append.give_back_room();
            if let Some(lane) = self.intake.lanes.get(append.lane) {
                lane.send(&mut vec![(append.reply, Err(AppendError::Closed))]);
            }
        }
        if let Some(active) = self.active.take() {
            self.seal(active);
        }
        self.sync_marks();
        let now = self.clock.monotonic();
        self.begin_log(now);
        self.stopping = true;
    }
}
