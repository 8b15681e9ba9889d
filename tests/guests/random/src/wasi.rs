//! WASI: clocks, random, files, streams, polling, and what a plugin is denied.

use wasip2::clocks::{monotonic_clock, wall_clock};
use wasip2::filesystem::preopens;
use wasip2::filesystem::types::{
    Advice, Descriptor, DescriptorFlags, DirectoryEntryStream, NewTimestamp, OpenFlags, PathFlags,
};
use wasip2::io::poll::{self, Pollable};
use wasip2::io::streams::{InputStream, OutputStream};
use wasip2::random;
use wasip2::sockets::network::IpAddressFamily;
use wasip2::sockets::{instance_network, ip_name_lookup, tcp_create_socket, udp_create_socket};

use crate::dice::Dice;
use crate::tally::Tally;

pub struct Wasi {
    // Dropped in this order: what was made of another comes before it.
    timers: Vec<Pollable>,
    listings: Vec<DirectoryEntryStream>,
    inputs: Vec<InputStream>,
    outputs: Vec<OutputStream>,
    files: Vec<Descriptor>,
    /// How many are held of each.
    most: usize,
}

/// The longest that is waited, ns.
const SOON: u64 = 1_000_000;

fn path(dice: &mut Dice) -> String {
    const NAMES: [&str; 16] = [
        "a",
        "b",
        "c",
        "d",
        "e",
        "..",
        ".",
        "",
        "plugin.toml",
        "random.wasm",
        "etc",
        "proc",
        "ü",
        "a b",
        "a\0b",
        "\u{1b}[2J",
    ];
    let depth = if dice.flag() { 1 } else { 1 + dice.below(4) };
    let mut path = String::new();
    for n in 0..depth {
        if n > 0 || dice.one_in(15) {
            path.push('/');
        }
        match dice.below(60) {
            0 => path.push_str(&"n".repeat(300)),
            1 => path.push_str(&"x/".repeat(3000)),
            n if n < 35 => path.push_str(NAMES[n % 5]),
            _ => path.push_str(dice.pick(&NAMES)),
        }
    }
    if dice.one_in(20) {
        path.push('/');
    }
    path
}

fn follow(dice: &mut Dice) -> PathFlags {
    if dice.flag() { PathFlags::SYMLINK_FOLLOW } else { PathFlags::empty() }
}

fn time(dice: &mut Dice) -> NewTimestamp {
    match dice.below(4) {
        0 => NewTimestamp::NoChange,
        1 => NewTimestamp::Now,
        _ => NewTimestamp::Timestamp(wall_clock::Datetime {
            seconds: dice.long(),
            nanoseconds: dice.long() as u32,
        }),
    }
}

/// Room for one more.
fn room<T>(list: &mut Vec<T>, most: usize, dice: &mut Dice, tally: &mut Tally, call: &'static str) {
    if list.len() >= most {
        while list.len() > most / 2 {
            drop(list.swap_remove(dice.below(list.len())));
            tally.done(call);
        }
    }
}

impl Wasi {
    pub fn new(tally: &mut Tally) -> Self {
        tally.done("preopens.get-directories");
        let files = preopens::get_directories().into_iter().map(|(directory, _)| directory).collect();
        Self {
            timers: Vec::new(),
            listings: Vec::new(),
            inputs: Vec::new(),
            outputs: Vec::new(),
            files,
            most: 24,
        }
    }

    pub fn step(&mut self, dice: &mut Dice, tally: &mut Tally) {
        // Now and then more than may be held at a time.
        if dice.one_in(200) {
            self.most = dice.pick(&[4, 12, 24, 24, 24, 80]);
        }
        match dice.below(16) {
            0 => self.clocks(dice, tally),
            1 => randomness(dice, tally),
            2 => denied(dice, tally),
            3 | 4 => self.input(dice, tally),
            5 | 6 => self.output(dice, tally),
            7 => self.polling(dice, tally),
            8 | 9 => self.open(dice, tally),
            10 => self.drop_one(dice, tally),
            11..=13 => self.at(dice, tally),
            _ => self.file(dice, tally),
        }
    }

    fn clocks(&mut self, dice: &mut Dice, tally: &mut Tally) {
        room(&mut self.timers, self.most, dice, tally, "pollable.drop");
        match dice.below(6) {
            0 => {
                monotonic_clock::now();
                tally.done("monotonic-clock.now");
            }
            1 => {
                monotonic_clock::resolution();
                tally.done("monotonic-clock.resolution");
            }
            2 => {
                wall_clock::now();
                tally.done("wall-clock.now");
            }
            3 => {
                wall_clock::resolution();
                tally.done("wall-clock.resolution");
            }
            4 => {
                let when =
                    if dice.flag() { monotonic_clock::now().wrapping_add(dice.long()) } else { dice.long() };
                self.timers.push(monotonic_clock::subscribe_instant(when));
                tally.done("monotonic-clock.subscribe-instant");
            }
            _ => {
                self.timers.push(monotonic_clock::subscribe_duration(dice.long()));
                tally.done("monotonic-clock.subscribe-duration");
            }
        }
    }

    fn polling(&mut self, dice: &mut Dice, tally: &mut Tally) {
        let soon = monotonic_clock::subscribe_duration(dice.u64() % SOON);
        let streams: Vec<Pollable> = (0..dice.below(3))
            .filter_map(|_| match (dice.flag(), self.inputs.len(), self.outputs.len()) {
                (true, count @ 1.., _) => Some(self.inputs[dice.below(count)].subscribe()),
                (_, _, count @ 1..) => Some(self.outputs[dice.below(count)].subscribe()),
                _ => None,
            })
            .collect();
        match dice.below(4) {
            0 => {
                soon.block();
                tally.done("pollable.block");
            }
            1 => {
                for pollable in streams.iter().chain(&self.timers) {
                    pollable.ready();
                    tally.done("pollable.ready");
                }
            }
            _ => {
                let mut all: Vec<&Pollable> = vec![&soon; 1 + dice.below(3)];
                all.extend(&streams);
                for _ in 0..dice.below(6) {
                    all.extend(self.timers.get(dice.below(self.timers.len() + 1)));
                }
                let ready = poll::poll(&all);
                let good = !ready.is_empty() && ready.iter().all(|n| (*n as usize) < all.len());
                tally.count("poll", if good { "ok" } else { "wrong" }.into());
            }
        }
    }

    fn drop_one(&mut self, dice: &mut Dice, tally: &mut Tally) {
        match dice.below(5) {
            0 if !self.timers.is_empty() => {
                drop(self.timers.swap_remove(dice.below(self.timers.len())));
                tally.done("pollable.drop");
            }
            1 if !self.listings.is_empty() => {
                drop(self.listings.swap_remove(dice.below(self.listings.len())));
                tally.done("directory-entry-stream.drop");
            }
            2 if !self.inputs.is_empty() => {
                drop(self.inputs.swap_remove(dice.below(self.inputs.len())));
                tally.done("input-stream.drop");
            }
            3 if !self.outputs.is_empty() => {
                drop(self.outputs.swap_remove(dice.below(self.outputs.len())));
                tally.done("output-stream.drop");
            }
            _ if self.files.len() > 2 => {
                drop(self.files.remove(2 + dice.below(self.files.len() - 2)));
                tally.done("descriptor.drop");
            }
            _ => {
                self.files.extend(preopens::get_directories().into_iter().map(|(directory, _)| directory));
                tally.done("preopens.get-directories");
            }
        }
    }

    /// A descriptor; the first two are the directories that there are from the beginning.
    fn any(&self, dice: &mut Dice) -> &Descriptor {
        let count = self.files.len();
        match dice.below(3) {
            0 => &self.files[dice.below(count.min(2))],
            1 => &self.files[dice.below(count)],
            // What was opened last is most often a file.
            _ => &self.files[count - 1 - dice.below(count.min(6))],
        }
    }

    fn open(&mut self, dice: &mut Dice, tally: &mut Tally) {
        while self.files.len() > self.most * 2 {
            drop(self.files.remove(2 + dice.below(self.files.len() - 2)));
            tally.done("descriptor.drop");
        }
        let directory = if dice.flag() { &self.files[1] } else { self.any(dice) };
        let how = match dice.below(4) {
            0 => OpenFlags::empty(),
            1 | 2 => OpenFlags::CREATE,
            _ => OpenFlags::from_bits_truncate(dice.u64() as u8),
        };
        let flags = match dice.below(4) > 0 {
            true => DescriptorFlags::READ | DescriptorFlags::WRITE,
            false => DescriptorFlags::from_bits_truncate(dice.u64() as u8),
        };
        let opened = directory.open_at(follow(dice), &path(dice), how, flags);
        self.files.extend(tally.answer("descriptor.open-at", opened));
    }

    /// What takes a path.
    fn at(&mut self, dice: &mut Dice, tally: &mut Tally) {
        let (fd, other) = (self.any(dice), self.any(dice));
        let (one, two, flags) = (path(dice), path(dice), follow(dice));
        match dice.below(11) {
            0 | 1 => drop(tally.answer("descriptor.create-directory-at", fd.create_directory_at(&one))),
            2 => drop(tally.answer("descriptor.stat-at", fd.stat_at(flags, &one))),
            3 => {
                let (access, modification) = (time(dice), time(dice));
                let set = fd.set_times_at(flags, &one, access, modification);
                tally.answer("descriptor.set-times-at", set);
            }
            4 => drop(tally.answer("descriptor.link-at", fd.link_at(flags, &one, other, &two))),
            5 => drop(tally.answer("descriptor.readlink-at", fd.readlink_at(&one))),
            6 => drop(tally.answer("descriptor.remove-directory-at", fd.remove_directory_at(&one))),
            7 => drop(tally.answer("descriptor.rename-at", fd.rename_at(&one, other, &two))),
            8 => drop(tally.answer("descriptor.symlink-at", fd.symlink_at(&one, &two))),
            9 => drop(tally.answer("descriptor.unlink-file-at", fd.unlink_file_at(&one))),
            _ => drop(tally.answer("descriptor.metadata-hash-at", fd.metadata_hash_at(flags, &one))),
        }
    }

    /// What takes none.
    fn file(&mut self, dice: &mut Dice, tally: &mut Tally) {
        room(&mut self.listings, self.most, dice, tally, "directory-entry-stream.drop");
        let (fd, other) = (self.any(dice), self.any(dice));
        match dice.below(15) {
            0 => {
                let kinds = [
                    Advice::Normal,
                    Advice::Sequential,
                    Advice::Random,
                    Advice::WillNeed,
                    Advice::DontNeed,
                    Advice::NoReuse,
                ];
                let advised = fd.advise(dice.long(), dice.long(), dice.pick(&kinds));
                tally.answer("descriptor.advise", advised);
            }
            1 => drop(tally.answer("descriptor.sync-data", fd.sync_data())),
            2 => drop(tally.answer("descriptor.sync", fd.sync())),
            3 => drop(tally.answer("descriptor.get-flags", fd.get_flags())),
            4 => drop(tally.answer("descriptor.get-type", fd.get_type())),
            5 => {
                // Beyond the limit it is refused, and takes nothing of what is left.
                let size = if dice.one_in(4) { dice.long() } else { dice.below(3000) as u64 };
                tally.answer("descriptor.set-size", fd.set_size(size));
            }
            6 => {
                let (access, modification) = (time(dice), time(dice));
                tally.answer("descriptor.set-times", fd.set_times(access, modification));
            }
            7 => drop(tally.answer("descriptor.read", fd.read(dice.long(), dice.long()))),
            8 | 9 => {
                let count = dice.below(600);
                let bytes = dice.bytes(count);
                let offset = if dice.one_in(4) { dice.long() } else { dice.below(3000) as u64 };
                tally.answer("descriptor.write", fd.write(&bytes, offset));
            }
            10 => drop(tally.answer("descriptor.stat", fd.stat())),
            11 => {
                fd.is_same_object(other);
                tally.done("descriptor.is-same-object");
            }
            12 => drop(tally.answer("descriptor.metadata-hash", fd.metadata_hash())),
            13 => {
                let made = tally.answer("descriptor.read-directory", fd.read_directory());
                self.listings.extend(made);
            }
            _ => {
                let count = self.listings.len();
                if let Some(listing) = self.listings.get(dice.below(count)) {
                    tally.answer("directory-entry-stream.read", listing.read_directory_entry());
                }
            }
        }
    }

    fn input(&mut self, dice: &mut Dice, tally: &mut Tally) {
        room(&mut self.inputs, self.most, dice, tally, "input-stream.drop");
        if self.inputs.is_empty() || dice.one_in(4) {
            if dice.one_in(8) {
                self.inputs.push(wasip2::cli::stdin::get_stdin());
                tally.done("stdin.get-stdin");
            } else {
                let offset = if dice.one_in(4) { dice.long() } else { dice.below(20) as u64 };
                let made = self.any(dice).read_via_stream(offset);
                self.inputs.extend(tally.answer("descriptor.read-via-stream", made));
            }
            return;
        }
        let stream = &self.inputs[dice.below(self.inputs.len())];
        match dice.below(4) {
            0 => drop(tally.answer("input-stream.read", stream.read(dice.long()))),
            1 => drop(tally.answer("input-stream.blocking-read", stream.blocking_read(dice.long()))),
            2 => drop(tally.answer("input-stream.skip", stream.skip(dice.long()))),
            _ => drop(tally.answer("input-stream.blocking-skip", stream.blocking_skip(dice.long()))),
        }
    }

    fn output(&mut self, dice: &mut Dice, tally: &mut Tally) {
        room(&mut self.outputs, self.most, dice, tally, "output-stream.drop");
        if self.outputs.is_empty() || dice.one_in(4) {
            match dice.below(10) {
                0 => {
                    self.outputs.push(wasip2::cli::stdout::get_stdout());
                    tally.done("stdout.get-stdout");
                }
                1 => {
                    self.outputs.push(wasip2::cli::stderr::get_stderr());
                    tally.done("stderr.get-stderr");
                }
                2..=4 => {
                    let made = self.any(dice).append_via_stream();
                    self.outputs.extend(tally.answer("descriptor.append-via-stream", made));
                }
                _ => {
                    let offset = if dice.one_in(4) { dice.long() } else { dice.below(3000) as u64 };
                    let made = self.any(dice).write_via_stream(offset);
                    self.outputs.extend(tally.answer("descriptor.write-via-stream", made));
                }
            }
            return;
        }
        let stream = &self.outputs[dice.below(self.outputs.len())];
        // More than this may be written only at the price of a trap.
        let free = tally.answer("output-stream.check-write", stream.check_write()).unwrap_or(0);
        let free = usize::try_from(free).unwrap_or(0);
        let count = dice.below(free.min(3000) + 1);
        let source = self.inputs.get(dice.below(self.inputs.len() + 1));
        match (dice.below(8), source) {
            (0 | 1, _) if free > 0 => {
                let bytes = dice.bytes(count);
                tally.answer("output-stream.write", stream.write(&bytes));
            }
            (2, _) if free > 0 => {
                tally.answer("output-stream.write-zeroes", stream.write_zeroes(count as u64));
            }
            (3, _) => {
                let bytes = dice.bytes(count);
                let written = stream.blocking_write_and_flush(&bytes);
                tally.answer("output-stream.blocking-write-and-flush", written);
            }
            (4, _) => {
                let written = stream.blocking_write_zeroes_and_flush(count as u64);
                tally.answer("output-stream.blocking-write-zeroes-and-flush", written);
            }
            (5, _) => drop(tally.answer("output-stream.flush", stream.flush())),
            (6, Some(source)) => {
                let moved = stream.splice(source, dice.long());
                tally.answer("output-stream.splice", moved);
            }
            (7, Some(source)) => {
                let moved = stream.blocking_splice(source, dice.long());
                tally.answer("output-stream.blocking-splice", moved);
            }
            _ => drop(tally.answer("output-stream.blocking-flush", stream.blocking_flush())),
        }
    }
}

fn randomness(dice: &mut Dice, tally: &mut Tally) {
    let length = if dice.one_in(30) { 1 << 20 } else { dice.below(500) as u64 };
    match dice.below(5) {
        0 => {
            let bytes = random::random::get_random_bytes(length);
            tally.count("random.get-random-bytes", ended(bytes.len() as u64 == length));
        }
        1 => {
            let bytes = random::insecure::get_insecure_random_bytes(length);
            tally.count("insecure.get-insecure-random-bytes", ended(bytes.len() as u64 == length));
        }
        2 => {
            random::random::get_random_u64();
            tally.done("random.get-random-u64");
        }
        3 => {
            random::insecure::get_insecure_random_u64();
            tally.done("insecure.get-insecure-random-u64");
        }
        _ => {
            random::insecure_seed::insecure_seed();
            tally.done("insecure-seed.insecure-seed");
        }
    }
}

fn ended(good: bool) -> String {
    if good { "ok" } else { "wrong" }.to_owned()
}

/// Environment, arguments, terminals, sockets.
fn denied(dice: &mut Dice, tally: &mut Tally) {
    let family = dice.pick(&[IpAddressFamily::Ipv4, IpAddressFamily::Ipv6]);
    match dice.below(8) {
        0 => {
            let nothing = wasip2::cli::environment::get_environment().is_empty();
            tally.count("environment.get-environment", ended(nothing));
        }
        1 => {
            let nothing = wasip2::cli::environment::get_arguments().is_empty();
            tally.count("environment.get-arguments", ended(nothing));
        }
        2 => {
            let nothing = wasip2::cli::environment::initial_cwd().is_none();
            tally.count("environment.initial-cwd", ended(nothing));
        }
        3 => {
            let nothing = wasip2::cli::terminal_stdin::get_terminal_stdin().is_none()
                && wasip2::cli::terminal_stdout::get_terminal_stdout().is_none()
                && wasip2::cli::terminal_stderr::get_terminal_stderr().is_none();
            tally.count("terminals", ended(nothing));
        }
        4 => {
            let refused =
                tally.answer("create-tcp-socket", tcp_create_socket::create_tcp_socket(family)).is_none();
            tally.count("no-tcp", ended(refused));
        }
        5 => {
            let refused =
                tally.answer("create-udp-socket", udp_create_socket::create_udp_socket(family)).is_none();
            tally.count("no-udp", ended(refused));
        }
        _ => {
            let network = instance_network::instance_network();
            tally.done("instance-network");
            let name = if dice.flag() { "localhost".to_owned() } else { dice.text(20) };
            let found = ip_name_lookup::resolve_addresses(&network, &name);
            let refused = tally.answer("resolve-addresses", found).is_none();
            tally.count("no-lookup", ended(refused));
        }
    }
}
