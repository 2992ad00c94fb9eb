//! A run: things from a shelf, sorted, in a file that is written once.
//!
//! `ru-N.run` has the header of all files and then these records:
//!
//! ```text
//! kind 80, directory: u32 which shelf, u32 items per block, u32 queues, u32 segments;
//!                     for each queue: u32 queue, u32 items, and the item that stands first in the log (40 bytes);
//!                     for each segment that an item is of: u32 number
//! kind 81, block:     items of one queue (40 bytes each), in order; all blocks of a queue but the last are full
//! ```
//!
//! So the place of each block follows from the directory. What has been taken from a run is not written to it: the
//! snapshot says how far each queue was read, and which items behind that place are gone.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::io;

use super::super::bits::Bits;
use super::super::disk::Disk;
use super::super::file::{FileError, StoreFile, new_header, run_name};
use super::super::record::{
    FILE_HEADER, FileKind, RECORD_HEADER, Reader, Stamp, decode_record, encode_record, padded,
};

const KIND_DIRECTORY: u8 = 80;
const KIND_BLOCK: u8 = 81;
/// Bytes of an item in a file.
const ITEM: usize = 40;
/// The largest directory that is read.
const DIRECTORY_MAX: u32 = 64 << 20;
const NO_STAMP: Stamp = Stamp { durable_upto: 0, commit: 0 };

/// What stands on a shelf.
pub trait Item: Copy + Debug {
    /// Tells the shelves' runs apart.
    const SHELF: u32;
    /// Which queue it stands in.
    fn queue(&self) -> u32;
    /// Its place in the queue.
    fn key(&self) -> Key;
    /// Its event's place in the log: segment, then offset.
    fn log_order(&self) -> (u32, u32);
    /// Its record's bytes.
    fn size(&self) -> u32;
    /// Appends 40 bytes.
    fn encode(&self, out: &mut Vec<u8>);
    /// Reads them back.
    fn decode(queue: u32, reader: &mut Reader<'_>) -> Option<Self>;
}

/// Order on a shelf: by time, then by place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    /// When it is due, or when it died: store time in milliseconds.
    pub time: u64,
    /// Its segment.
    pub segment: u32,
    /// Its slot there.
    pub slot: u32,
}

/// One run, but for the items themselves.
#[derive(Debug)]
pub struct Run<T> {
    file: StoreFile,
    block_items: u32,
    /// By queue.
    pub slices: BTreeMap<u32, Slice<T>>,
    /// Segments that items are of; sorted.
    pub segments: Vec<u32>,
    /// Items behind a cursor that do not count any more.
    pub gone: Bits,
    /// Items that still count.
    pub left: u64,
    /// Bytes of the file.
    pub bytes: u64,
}

/// One queue's part of a run.
#[derive(Debug)]
pub struct Slice<T> {
    /// Where its first block starts.
    at: u64,
    /// The number of its first item in the run.
    pub first: u32,
    /// Its items.
    pub count: u32,
    /// How many of them were taken.
    pub cursor: u32,
    /// The item at the cursor.
    pub next: Option<Key>,
    /// How many of them are ripe; not before the cursor.
    pub ripe: u32,
    /// The item that ripens next.
    pub next_ripe: Option<Key>,
    /// The last of its items.
    pub last: Option<Key>,
    /// Of all of its items, the one that stands first in the log.
    pub oldest: T,
}

impl<T: Item> Run<T> {
    /// Writes a run, durable when it returns.
    ///
    /// # Errors
    /// As the disk says; there is no run then.
    pub fn write(
        disk: &dyn Disk,
        number: u32,
        nonce: u64,
        block_items: u32,
        queues: &BTreeMap<u32, Vec<T>>,
    ) -> io::Result<Run<T>> {
        let name = run_name(number);
        // Left by a stop before a snapshot spoke of it.
        let _ = disk.remove(&name);
        let file = disk.create(&name)?;
        let header = new_header(FileKind::Run, number, nonce, 0);
        let bytes = encode(&header.encode(), header.seed(), block_items, queues);
        let written = file
            .write_all_at(&bytes, 0)
            .and_then(|()| if defect!(RunNotSynced) { Ok(()) } else { file.sync_data() })
            .and_then(|()| disk.sync_dir());
        if let Err(error) = written {
            let _ = disk.remove(&name);
            return Err(error);
        }
        let file = StoreFile { file, header };
        let directory = Directory {
            block_items,
            queues: queues
                .iter()
                .filter_map(|(queue, items)| {
                    Some((*queue, u32::try_from(items.len()).ok()?, *oldest(items)?))
                })
                .collect(),
            segments: segments_of(queues),
        };
        let mut run = Run::new(file, directory, directory_bytes(queues), bytes.len() as u64);
        for (queue, items) in queues {
            if let Some(slice) = run.slices.get_mut(queue) {
                slice.next = items.first().map(Item::key);
                slice.next_ripe = slice.next;
                slice.last = items.last().map(Item::key);
            }
        }
        Ok(run)
    }

    /// Opens a run that a snapshot speaks of. `None`: it cannot be used.
    ///
    /// # Errors
    /// As the disk says, or an unknown version.
    pub fn open(disk: &dyn Disk, number: u32) -> Result<Option<Run<T>>, FileError> {
        let file = StoreFile::open(disk, &run_name(number), FileKind::Run)?;
        let length = file.file.length()?;
        let Some((directory, bytes)) = read_directory::<T>(&file, length)? else {
            return Ok(None);
        };
        let blocks: u64 = directory
            .queues
            .iter()
            .map(|(_, count, _)| slice_bytes(*count, directory.block_items))
            .fold(0, u64::saturating_add);
        // It was written whole: one of another length is damaged.
        let whole = (FILE_HEADER + bytes).saturating_add(blocks) == length;
        Ok(whole.then(|| Run::new(file, directory, bytes, length)))
    }

    fn new(file: StoreFile, directory: Directory<T>, directory_bytes: u64, bytes: u64) -> Run<T> {
        let mut at = FILE_HEADER + directory_bytes;
        let mut first = 0u32;
        let mut slices = BTreeMap::new();
        for (queue, count, oldest) in directory.queues {
            let slice = Slice {
                at,
                first,
                count,
                cursor: 0,
                next: None,
                ripe: 0,
                next_ripe: None,
                last: None,
                oldest,
            };
            slices.insert(queue, slice);
            at += slice_bytes(count, directory.block_items);
            first = first.saturating_add(count);
        }
        Run {
            file,
            block_items: directory.block_items,
            slices,
            segments: directory.segments,
            gone: Bits::default(),
            left: u64::from(first),
            bytes,
        }
    }

    /// The items of the block that holds number `index` of a queue, from there on.
    ///
    /// # Errors
    /// As the disk says.
    pub fn block(&self, queue: u32, index: u32) -> io::Result<Block<T>> {
        let Some(slice) = self.slices.get(&queue) else {
            return Ok(Block::default());
        };
        let number = index / self.block_items;
        let start = number * self.block_items;
        let count = self.block_items.min(slice.count.saturating_sub(start));
        let size = padded(RECORD_HEADER + count as usize * ITEM);
        let at = slice.at + u64::from(number) * block_bytes(self.block_items);
        let bytes = match self.file.read_record(at, u32::try_from(size).unwrap_or(0)) {
            Ok(bytes) => bytes,
            // The file is shorter than its directory says.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Vec::new(),
            Err(error) => return Err(error),
        };
        let record = decode_record(&bytes, self.file.seed());
        let items = record.filter(|record| record.kind == KIND_BLOCK).and_then(|record| {
            let mut reader = Reader::new(record.body);
            (0..count).map(|_| T::decode(queue, &mut reader)).collect::<Option<Vec<T>>>()
        });
        let skip = (index - start) as usize;
        let end = start + count;
        Ok(match items {
            Some(items) => {
                Block { items: items.into_iter().skip(skip).collect(), end, damaged: false }
            }
            None => Block { items: Vec::new(), end, damaged: true },
        })
    }

    /// Whether an item of a queue does not count any more.
    pub fn is_gone(&self, queue: u32, index: u32) -> bool {
        self.slices
            .get(&queue)
            .is_none_or(|slice| index < slice.cursor || self.gone.contains(slice.first + index))
    }
}

/// Items of one queue that follow each other.
#[derive(Debug)]
pub struct Block<T> {
    /// The items.
    pub items: Vec<T>,
    /// The number of the item after the block.
    pub end: u32,
    /// The block does not validate.
    pub damaged: bool,
}

impl<T> Default for Block<T> {
    fn default() -> Block<T> {
        Block { items: Vec::new(), end: u32::MAX, damaged: false }
    }
}

struct Directory<T> {
    block_items: u32,
    queues: Vec<(u32, u32, T)>,
    segments: Vec<u32>,
}

fn oldest<T: Item>(items: &[T]) -> Option<&T> {
    items.iter().min_by_key(|item| item.log_order())
}

fn segments_of<T: Item>(queues: &BTreeMap<u32, Vec<T>>) -> Vec<u32> {
    let mut segments: Vec<_> = queues.values().flatten().map(|item| item.key().segment).collect();
    segments.sort_unstable();
    segments.dedup();
    segments
}

fn encode<T: Item>(
    header: &[u8],
    seed: super::super::record::Seed,
    block_items: u32,
    queues: &BTreeMap<u32, Vec<T>>,
) -> Vec<u8> {
    let mut out = header.to_vec();
    let segments = segments_of(queues);
    let number = |count: usize| u32::try_from(count).unwrap_or(u32::MAX).to_le_bytes();
    encode_record(&mut out, seed, KIND_DIRECTORY, NO_STAMP, |out| {
        out.extend_from_slice(&T::SHELF.to_le_bytes());
        out.extend_from_slice(&block_items.to_le_bytes());
        out.extend_from_slice(&number(queues.len()));
        out.extend_from_slice(&number(segments.len()));
        for (queue, items) in queues {
            out.extend_from_slice(&queue.to_le_bytes());
            out.extend_from_slice(&number(items.len()));
            if let Some(oldest) = oldest(items) {
                oldest.encode(out);
            }
        }
        for segment in &segments {
            out.extend_from_slice(&segment.to_le_bytes());
        }
    });
    for block in queues.values().flat_map(|items| items.chunks(block_items.max(1) as usize)) {
        encode_record(&mut out, seed, KIND_BLOCK, NO_STAMP, |out| {
            block.iter().for_each(|item| item.encode(out));
        });
    }
    out
}

fn directory_bytes<T: Item>(queues: &BTreeMap<u32, Vec<T>>) -> u64 {
    let body = 16 + queues.len() * (8 + ITEM) + segments_of(queues).len() * 4;
    padded(RECORD_HEADER + body) as u64
}

fn block_bytes(items: u32) -> u64 {
    padded(RECORD_HEADER + items as usize * ITEM) as u64
}

fn slice_bytes(count: u32, block_items: u32) -> u64 {
    let rest = count % block_items;
    let last = if rest > 0 { block_bytes(rest) } else { 0 };
    u64::from(count / block_items) * block_bytes(block_items) + last
}

fn read_directory<T: Item>(
    file: &StoreFile,
    length: u64,
) -> io::Result<Option<(Directory<T>, u64)>> {
    let mut head = [0; RECORD_HEADER];
    if length < FILE_HEADER + RECORD_HEADER as u64 {
        return Ok(None);
    }
    file.file.read_exact_at(&mut head, FILE_HEADER)?;
    let size = super::super::record::peek_length(&head, file.seed());
    let fits = |size: &u32| *size <= DIRECTORY_MAX && FILE_HEADER + u64::from(*size) <= length;
    let Some(size) = size.and_then(|size| u32::try_from(size).ok()).filter(fits) else {
        return Ok(None);
    };
    let bytes = file.read_record(FILE_HEADER, size)?;
    let record = decode_record(&bytes, file.seed()).filter(|record| record.kind == KIND_DIRECTORY);
    Ok(record.and_then(|record| Some((decode_directory(record.body)?, u64::from(size)))))
}

fn decode_directory<T: Item>(body: &[u8]) -> Option<Directory<T>> {
    let mut reader = Reader::new(body);
    if reader.u32()? != T::SHELF {
        return None;
    }
    let block_items = reader.u32().filter(|items| *items > 0)?;
    let (queues, segments) = (reader.u32()?, reader.u32()?);
    let queues: Option<Vec<_>> = (0..queues)
        .map(|_| {
            let (queue, count) = (reader.u32()?, reader.u32()?);
            Some((queue, count, T::decode(queue, &mut reader)?))
        })
        .collect();
    let queues = queues?;
    let segments: Option<Vec<_>> = (0..segments).map(|_| reader.u32()).collect();
    Some(Directory { block_items, queues, segments: segments? })
}
