//! A file's header with one wrong byte: its checksum tells which byte, and what stood there, so nothing of the file is
//! lost. Without the header's nonce no record of the file could be read.

use super::super::disk::Disk;
use super::super::file::StoreFile;
use super::super::record::{FileHeader, FileKind};

/// Tries every value of every byte of a damaged header, in memory. Where one validates, the header is written again.
/// `None`: more than one byte is wrong.
pub(super) fn mend(disk: &dyn Disk, name: &str, kind: FileKind) -> Option<StoreFile> {
    let file = disk.open(name).ok()?;
    let mut bytes = [0; 64];
    file.read_exact_at(&mut bytes, 0).ok()?;
    let header = (0..bytes.len()).find_map(|at| with_another_byte(bytes, at, kind))?;
    // If it cannot be written, the next start does this again.
    let _ = file.write_all_at(&header.encode(), 0);
    Some(StoreFile { file, header })
}

fn with_another_byte(mut bytes: [u8; 64], at: usize, kind: FileKind) -> Option<FileHeader> {
    (0..=u8::MAX).find_map(|value| {
        *bytes.get_mut(at)? = value;
        FileHeader::decode(&bytes, kind).ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::disk::OsDisk;
    use crate::store::file::new_header;

    /// What is found in a file with these wrong bytes.
    fn mended(wrong: &[usize]) -> Option<FileHeader> {
        let directory = tempfile::tempdir().unwrap();
        let disk = OsDisk::open(directory.path()).unwrap();
        let mut bytes = new_header(FileKind::Segment, 7, 0xdead_beef_0042, 1_700_000).encode();
        wrong.iter().for_each(|at| bytes[*at] ^= 0x5a);
        disk.create("x").unwrap().write_all_at(&bytes, 0).unwrap();
        let found = mend(&disk, "x", FileKind::Segment);
        if let Some(found) = &found {
            let again = StoreFile::open(&disk, "x", FileKind::Segment).unwrap();
            assert_eq!(again.header, found.header, "written again");
        }
        found.map(|file| file.header)
    }

    #[test]
    fn one_wrong_byte_is_mended_wherever_it_is() {
        let right = new_header(FileKind::Segment, 7, 0xdead_beef_0042, 1_700_000);
        for at in 0..64 {
            assert_eq!(mended(&[at]), Some(right), "byte {at}");
        }
    }

    #[test]
    fn more_than_one_is_not_guessed_at() {
        assert_eq!(mended(&[24, 25]), None);
        assert_eq!(mended(&(0..64).collect::<Vec<_>>()), None);
    }
}
