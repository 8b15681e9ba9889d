//! Calls of WASI, one a line, made as they stand: nothing is normalised on the way to the host.

use std::collections::HashMap;

use wasip2::cli::{environment, stdin};
use wasip2::clocks::{monotonic_clock, wall_clock};
use wasip2::filesystem::preopens::get_directories;
use wasip2::filesystem::types::{
    Descriptor, DescriptorFlags, DirectoryEntryStream, ErrorCode, NewTimestamp, OpenFlags, PathFlags,
    filesystem_error_code,
};
use wasip2::io::streams::{InputStream, OutputStream, StreamError};
use wasip2::random::{insecure, random};
use wasip2::sockets::network::{IpAddressFamily, IpSocketAddress, Ipv4SocketAddress};
use wasip2::sockets::{instance_network, ip_name_lookup, tcp_create_socket, udp_create_socket};

/// What a call answers: some text, or the name of an error.
type Answer = Result<String, String>;

#[derive(Default)]
struct Hands {
    descriptors: HashMap<String, Descriptor>,
    hoard: Vec<Descriptor>,
    readers: Vec<InputStream>,
    writers: Vec<OutputStream>,
    listings: Vec<DirectoryEntryStream>,
}

fn said(code: ErrorCode) -> String {
    code.name().to_owned()
}

fn broken(error: StreamError) -> String {
    match error {
        StreamError::Closed => "closed".into(),
        StreamError::LastOperationFailed(error) => {
            filesystem_error_code(&error).map_or_else(|| error.to_debug_string(), said)
        }
    }
}

fn shown(bytes: &[u8]) -> String {
    String::from_utf8_lossy(&bytes[..bytes.len().min(200)]).into_owned()
}

fn flags(letters: &str) -> (PathFlags, OpenFlags, DescriptorFlags) {
    let mut flags = (PathFlags::empty(), OpenFlags::empty(), DescriptorFlags::empty());
    for letter in letters.chars() {
        match letter {
            'f' => flags.0 |= PathFlags::SYMLINK_FOLLOW,
            'c' => flags.1 |= OpenFlags::CREATE,
            'x' => flags.1 |= OpenFlags::EXCLUSIVE,
            't' => flags.1 |= OpenFlags::TRUNCATE,
            'd' => flags.1 |= OpenFlags::DIRECTORY,
            'r' => flags.2 |= DescriptorFlags::READ,
            'w' => flags.2 |= DescriptorFlags::WRITE,
            'm' => flags.2 |= DescriptorFlags::MUTATE_DIRECTORY,
            's' => flags.2 |= DescriptorFlags::FILE_INTEGRITY_SYNC,
            _ => {}
        }
    }
    flags
}

impl Hands {
    fn at(&self, name: &str) -> Result<&Descriptor, String> {
        self.descriptors.get(name).ok_or_else(|| format!("no descriptor {name:?}"))
    }

    fn stat(stat: Result<wasip2::filesystem::types::DescriptorStat, ErrorCode>) -> Answer {
        stat.map(|s| format!("{:?} of {} bytes", s.type_, s.size)).map_err(said)
    }

    fn call(&mut self, line: &str) -> Answer {
        let words: Vec<&str> = line.split('\t').collect();
        let word = |n: usize| words.get(n).copied().unwrap_or_default();
        let number = |n: usize| word(n).parse::<u64>().unwrap_or_default();
        let done = |result: Result<(), ErrorCode>| result.map(|()| "done".to_owned()).map_err(said);
        match word(0) {
            "open" => {
                let (path, open, descriptor) = flags(word(3));
                let opened = self.at(word(2))?.open_at(path, word(4), open, descriptor).map_err(said)?;
                self.descriptors.insert(word(1).into(), opened);
                Ok("opened".into())
            }
            // A path that is no text.
            "open-bytes" => {
                // SAFETY: none; the text is never looked at in here.
                let path = unsafe { String::from_utf8_unchecked(vec![b'a', 0xff, 0xfe]) };
                let opened = self.at(word(1))?.open_at(
                    PathFlags::empty(),
                    &path,
                    OpenFlags::empty(),
                    DescriptorFlags::READ,
                );
                opened.map(|_| "opened".to_owned()).map_err(said)
            }
            "close" => self.descriptors.remove(word(1)).map(|_| "closed".into()).ok_or("none".into()),
            "read" => {
                let (bytes, _) = self.at(word(1))?.read(200, number(2)).map_err(said)?;
                Ok(shown(&bytes))
            }
            "read-stream" => {
                let stream = self.at(word(1))?.read_via_stream(number(2)).map_err(said)?;
                stream.blocking_read(200).map(|bytes| shown(&bytes)).map_err(broken)
            }
            "write" => {
                let written = self.at(word(1))?.write(word(3).as_bytes(), number(2)).map_err(said)?;
                Ok(format!("{written} bytes"))
            }
            "write-stream" => {
                let stream = self.at(word(1))?.write_via_stream(number(2)).map_err(said)?;
                stream.blocking_write_and_flush(word(3).as_bytes()).map_err(broken)?;
                Ok("done".into())
            }
            "append" => {
                let stream = self.at(word(1))?.append_via_stream().map_err(said)?;
                stream.blocking_write_and_flush(word(2).as_bytes()).map_err(broken)?;
                Ok("done".into())
            }
            // So many KiB to the end of a file, 4 at a time, and how many of them went in.
            "fill" | "zero-fill" | "unchecked-fill" => {
                let stream = self.at(word(1))?.append_via_stream().map_err(said)?;
                let piece = [b'x'; 4096];
                for n in 0..number(2) / 4 {
                    let written = match word(0) {
                        "fill" => stream.blocking_write_and_flush(&piece),
                        "zero-fill" => stream.blocking_write_zeroes_and_flush(4096),
                        _ => {
                            let ready = loop {
                                match stream.check_write() {
                                    Ok(0) => stream.subscribe().block(),
                                    other => break other,
                                }
                            };
                            ready.and_then(|_| stream.write(&piece))
                        }
                    };
                    written.map_err(|e| format!("{} after {} KiB", broken(e), 4 * n))?;
                }
                stream.blocking_flush().map_err(broken)?;
                Ok("done".into())
            }
            // Out of one file into another, without a byte in here.
            "splice" => {
                let from = self.at(word(1))?.read_via_stream(0).map_err(said)?;
                let to = self.at(word(2))?.append_via_stream().map_err(said)?;
                let mut total = 0;
                loop {
                    match to.blocking_splice(&from, 1 << 16) {
                        Ok(n) => total += n,
                        Err(StreamError::Closed) => break Ok(format!("{total} bytes")),
                        Err(error) => break Err(format!("{} after {total}", broken(error))),
                    }
                }
            }
            "size" => done(self.at(word(1))?.set_size(number(2))),
            "list" => {
                let listing = self.at(word(1))?.read_directory().map_err(said)?;
                let mut names = Vec::new();
                while let Some(entry) = listing.read_directory_entry().map_err(said)? {
                    names.push(entry.name);
                }
                names.sort();
                Ok(names.join(" "))
            }
            "stat" => Self::stat(self.at(word(1))?.stat()),
            "stat-at" => Self::stat(self.at(word(1))?.stat_at(flags(word(2)).0, word(3))),
            "type" => self.at(word(1))?.get_type().map(|t| format!("{t:?}")).map_err(said),
            "flags" => self.at(word(1))?.get_flags().map(|f| format!("{f:?}")).map_err(said),
            "mkdir" => done(self.at(word(1))?.create_directory_at(word(2))),
            "rmdir" => done(self.at(word(1))?.remove_directory_at(word(2))),
            "unlink" => done(self.at(word(1))?.unlink_file_at(word(2))),
            "symlink" => done(self.at(word(1))?.symlink_at(word(2), word(3))),
            "readlink" => self.at(word(1))?.readlink_at(word(2)).map_err(said),
            "link" => {
                let (old, new) = (self.at(word(1))?, self.at(word(4))?);
                done(old.link_at(flags(word(2)).0, word(3), new, word(5)))
            }
            "rename" => {
                let (old, new) = (self.at(word(1))?, self.at(word(3))?);
                done(old.rename_at(word(2), new, word(4)))
            }
            "times" => done(self.at(word(1))?.set_times(NewTimestamp::Now, NewTimestamp::Now)),
            "times-at" => done(self.at(word(1))?.set_times_at(
                flags(word(2)).0,
                word(3),
                NewTimestamp::Now,
                NewTimestamp::Now,
            )),
            "hash-at" => {
                let hash = self.at(word(1))?.metadata_hash_at(flags(word(2)).0, word(3)).map_err(said)?;
                Ok(format!("{:x}", hash.lower))
            }
            "same" => Ok(self.at(word(1))?.is_same_object(self.at(word(2))?).to_string()),
            "sync" => done(self.at(word(1))?.sync()),
            "advise" => {
                done(self.at(word(1))?.advise(0, u64::MAX, wasip2::filesystem::types::Advice::DontNeed))
            }
            // One directory in the other, so many deep; `deep` is the last.
            "nest" => {
                let (path, open, descriptor) = flags("drm");
                for n in 0..number(2) {
                    let from = self.at(if n == 0 { word(1) } else { "deep" })?;
                    from.create_directory_at(word(3)).map_err(|e| format!("{} at {n}", said(e)))?;
                    let next = from.open_at(path, word(3), open, descriptor);
                    let next = next.map_err(|e| format!("{} at {n}", said(e)))?;
                    self.descriptors.insert("deep".into(), next);
                }
                Ok("done".into())
            }
            // So many of a kind, all held.
            "hoard" => {
                for n in 0..number(2) {
                    let from = self.at(word(3))?;
                    let fail = |e| format!("{} at {n}", said(e));
                    let (path, open, descriptor) = flags("fr");
                    match word(1) {
                        "descriptors" => {
                            let next = from.open_at(path, word(4), open, descriptor).map_err(fail)?;
                            self.hoard.push(next);
                        }
                        "readers" => self.readers.push(from.read_via_stream(0).map_err(fail)?),
                        "writers" => self.writers.push(from.append_via_stream().map_err(fail)?),
                        "listings" => self.listings.push(from.read_directory().map_err(fail)?),
                        "files" => {
                            let (path, open, descriptor) = flags("cxw");
                            let name = format!("{}{n}", word(4));
                            from.open_at(path, &name, open, descriptor).map_err(fail)?;
                        }
                        "directories" => {
                            from.create_directory_at(&format!("{}{n}", word(4))).map_err(fail)?
                        }
                        "symlinks" => from.symlink_at("x", &format!("{}{n}", word(4))).map_err(fail)?,
                        "links" => {
                            from.link_at(PathFlags::empty(), "file", from, &format!("{}{n}", word(4)))
                                .map_err(fail)?;
                        }
                        other => return Err(format!("no kind {other:?}")),
                    }
                }
                Ok("done".into())
            }
            "preopens" => {
                let names: Vec<String> = get_directories().into_iter().map(|(_, name)| name).collect();
                Ok(names.join(" "))
            }
            "environment" => Ok(format!("{:?}", environment::get_environment())),
            "arguments" => Ok(format!("{:?}", environment::get_arguments())),
            "initial-cwd" => Ok(format!("{:?}", environment::initial_cwd())),
            "stdin" => stdin::get_stdin().blocking_read(100).map(|b| shown(&b)).map_err(broken),
            "tcp" => tcp_create_socket::create_tcp_socket(IpAddressFamily::Ipv4)
                .map_err(|e| e.name().to_owned())
                .and_then(|socket| {
                    let to = Ipv4SocketAddress { port: 9, address: (127, 0, 0, 1) };
                    let network = instance_network::instance_network();
                    socket
                        .start_connect(&network, IpSocketAddress::Ipv4(to))
                        .map_err(|e| e.name().to_owned())?;
                    socket.subscribe().block();
                    socket.finish_connect().map(|_| "connected".to_owned()).map_err(|e| e.name().to_owned())
                }),
            "udp" => udp_create_socket::create_udp_socket(IpAddressFamily::Ipv6)
                .map(|_| "a socket".to_owned())
                .map_err(|e| e.name().to_owned()),
            "lookup" => {
                let network = instance_network::instance_network();
                let found = ip_name_lookup::resolve_addresses(&network, word(1));
                let found = found.map_err(|e| e.name().to_owned())?;
                found.subscribe().block();
                found.resolve_next_address().map(|a| format!("{a:?}")).map_err(|e| e.name().to_owned())
            }
            "clocks" => {
                let (wall, monotonic) = (wall_clock::resolution(), monotonic_clock::resolution());
                let (a, b) = (monotonic_clock::now(), monotonic_clock::now());
                Ok(format!("wall {} ns monotonic {monotonic} ns goes on {}", wall.nanoseconds, b >= a))
            }
            "random" => Ok(format!("{} bytes", random::get_random_bytes(number(1)).len())),
            "insecure" => Ok(format!("{} bytes", insecure::get_insecure_random_bytes(number(1)).len())),
            "random-for-ever" => loop {
                std::hint::black_box(random::get_random_bytes(number(1)));
            },
            other => Err(format!("no call {other:?}")),
        }
    }
}

/// Makes the calls; a line for each with what it answered: `ok …`, or the name of the error.
pub fn run(script: &str) -> String {
    let mut hands = Hands::default();
    for (descriptor, name) in get_directories() {
        hands.descriptors.insert(name.trim_start_matches('/').to_owned(), descriptor);
    }
    let mut answers = Vec::new();
    for line in script.split('\n') {
        answers.push(match hands.call(line) {
            Ok(text) => format!("ok {text}"),
            Err(text) => text,
        });
    }
    answers.join("\n")
}
