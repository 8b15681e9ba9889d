//! The ways out that are tried: what is called, and how the last call must end.

use std::path::Path;

/// How the last call of a case must end. That nothing outside changed and nothing of it was read is
/// checked besides.
#[derive(Debug, Clone, Copy)]
pub enum Due {
    /// With an error.
    Refused,
    /// With a trap of the guest.
    Traps,
    /// With just this: it stayed inside.
    Inside(&'static str),
}
use Due::{Inside, Refused, Traps};

/// One way out.
pub struct Case {
    /// What is tried.
    pub name: String,
    /// See [`Due`].
    pub due: Due,
    /// Calls, one a line.
    pub script: String,
}

/// Every way, around a scene in `dir`.
pub fn cases(dir: &Path) -> Vec<Case> {
    let mut cases = Vec::new();
    let mut case = |name: &str, due: Due, calls: &[&str]| {
        let script = calls.join("\n").replace("DIR", &dir.display().to_string());
        cases.push(Case { name: name.to_owned(), due, script });
    };
    // Paths that lead up, at every position, opened in each preopen.
    for (name, path) in [
        ("the parent", ".."),
        ("the parent's file", "../secret"),
        ("two up", "../../secret"),
        ("up and into a neighbour", "../neighbour/secret"),
        ("up after a step down", "sub/../../neighbour/secret"),
        ("up and back in by name", "../escaper/model"),
        ("up after dots", "./././../secret"),
        ("up with a slash at the end", "../"),
        ("up with a dot at the end", "../."),
        ("up after double slashes", "sub//..//..//neighbour/secret"),
        ("far more up than down", "../../../../../../../../../../../../etc/passwd"),
        ("an absolute path", "DIR/outside/secret"),
        ("an absolute path of the guest's own folder", "/plugin/model"),
        ("an absolute path with two slashes", "//etc/passwd"),
        ("the root", "/"),
        ("/proc/self/environ", "/proc/self/environ"),
        ("/proc/self/root", "/proc/self/root/etc/passwd"),
        ("/proc/1/cwd", "/proc/1/cwd"),
        ("/dev/mem", "/dev/mem"),
        ("/dev/null", "/dev/null"),
        ("/sys", "/sys/kernel"),
        ("proc by way up", "../../../../../../../../proc/self/environ"),
        ("the empty path", ""),
        ("a name with NUL", "model\0"),
        ("a name cut off by NUL", "\0../secret"),
        ("up with backslashes", "..\\..\\secret"),
        ("a drive", "C:\\Windows\\win.ini"),
        ("a device of another system", "\\\\?\\C:\\"),
        ("up in other letters", "%2e%2e/secret"),
        ("up in full width", "\u{ff0e}\u{ff0e}/secret"),
        ("three dots", ".../secret"),
        ("a file as a directory", "model/../../secret"),
        ("a tilde", "~/secret"),
        ("a variable", "$HOME/secret"),
        ("a web address", "file:///etc/passwd"),
    ] {
        case(&format!("open {name}"), Refused, &[&format!("open\ta\tplugin\tfr\t{path}")]);
    }
    for (name, path) in
        [("the parent", ".."), ("a neighbour's file", "../secret"), ("two up", "../../secret")]
    {
        case(&format!("open {name} from scratch"), Refused, &[&format!("open\ta\tscratch\tfr\t{path}")]);
        case(&format!("write {name} from scratch"), Refused, &[&format!("open\ta\tscratch\tfcw\t{path}")]);
    }
    case(
        "open the parent from below and back",
        Inside("inside"),
        &["open\ta\tplugin\tdr\tsub", "open\tb\tplugin\tfr\tsub/../sub/inside", "read\tb"],
    );
    case(
        "open the parent of an opened folder",
        Refused,
        &["open\ta\tplugin\tdr\tsub", "open\tb\ta\tr\t../model"],
    );
    case(
        "open the parent of an opened folder twice up",
        Refused,
        &["open\ta\tplugin\tdr\tsub", "open\tb\ta\tfr\t../../neighbour/secret"],
    );
    case("a name that is no text", Traps, &["open-bytes\tplugin"]);
    case("a name of 300 bytes", Refused, &[&format!("open\ta\tscratch\tcw\t{}", "n".repeat(300))]);
    case("a path of 5,000 bytes", Refused, &[&format!("open\ta\tplugin\tr\t{}model", "sub/../".repeat(700))]);
    case("a path of 1 MB", Refused, &[&format!("open\ta\tplugin\tr\t{}", "a/".repeat(500_000))]);
    case("a name with a slash at its end", Refused, &["open\ta\tplugin\tr\tmodel/"]);
    case("a name with a slash and a dot at its end", Refused, &["open\ta\tplugin\tr\tmodel/."]);
    case("a new name with a slash at its end", Refused, &["open\ta\tscratch\tcw\tnew/"]);
    case("a dot", Inside("opened"), &["open\ta\tplugin\tr\t."]);
    case(
        "a name with a newline's neighbour and escapes",
        Inside("\u{1b}[2Jx"),
        &["open\ta\tscratch\tcw\t\u{1b}[2Jx", "list\tscratch"],
    );
    // Links that lie in the plugin's folder.
    for (name, link) in [
        ("up to a file", "up"),
        ("up to a folder", "up-dir"),
        ("to the neighbour", "neighbour"),
        ("to the parent", "dots"),
        ("to an absolute file", "far"),
        ("to an absolute folder", "far-dir"),
        ("to the root", "root"),
        ("to /proc/self/environ", "proc"),
        ("to /proc/self/root", "magic"),
        ("to itself", "loop"),
        ("by a chain", "chain"),
        ("out and in again", "around"),
    ] {
        case(&format!("a link {name}"), Refused, &[&format!("open\ta\tplugin\tfr\t{link}")]);
        case(&format!("a link {name}, looked at"), Refused, &[&format!("stat-at\tplugin\tf\t{link}")]);
    }
    for (name, path) in [
        ("up-dir", "up-dir/secret"),
        ("dots", "dots/neighbour/secret"),
        ("root", "root/etc/passwd"),
        ("magic", "magic/etc/passwd"),
        ("fd", "fd/0"),
        ("far-dir", "far-dir/secret"),
    ] {
        case(&format!("through the link {name}"), Refused, &[&format!("open\ta\tplugin\tfr\t{path}")]);
        case(
            &format!("through the link {name}, not followed"),
            Refused,
            &[&format!("open\ta\tplugin\tr\t{path}")],
        );
    }
    case("a link to the root with a slash", Refused, &["open\ta\tplugin\tdr\troot/"]);
    case("a link to a folder with a slash and dot", Refused, &["open\ta\tplugin\tr\tup-dir/."]);
    case("a link that is not followed", Refused, &["open\ta\tplugin\tr\tup"]);
    case("a link inside", Inside("inside"), &["open\ta\tplugin\tfr\tinner", "read\ta"]);
    case("what an absolute link says", Refused, &["readlink\tplugin\tfar"]);
    case("the identity of what a link leads to", Refused, &["hash-at\tplugin\tf\tup"]);
    case("a pipe that nobody writes to", Refused, &["open\ta\tplugin\tr\tfifo"]);
    case("a pipe, to be written", Refused, &["open\ta\tplugin\tw\tfifo"]);
    // Links that the guest makes.
    for (name, target) in [
        ("up", "../../secret"),
        ("up one", "../secret"),
        ("to itself", "made"),
        ("to the parent", ".."),
        ("into the plugin's folder", "../../plugins/escaper/model"),
        ("to what is not there", "../new"),
    ] {
        let link = format!("symlink\tscratch\t{target}\tmade");
        case(&format!("a made link {name}"), Refused, &[&link, "open\ta\tscratch\tfr\tmade"]);
        case(&format!("a made link {name}, written"), Refused, &[&link, "open\ta\tscratch\tfcw\tmade"]);
        case(&format!("a made link {name}, looked at"), Refused, &[&link, "stat-at\tscratch\tf\tmade"]);
        case(&format!("a made link {name}, touched"), Refused, &[&link, "times-at\tscratch\tf\tmade"]);
    }
    for target in ["/etc/passwd", "/", "/proc/self/root", "//etc", "DIR/outside/secret"] {
        case(&format!("a made link to {target}"), Refused, &[&format!("symlink\tscratch\t{target}\tmade")]);
    }
    case(
        "a made link by way of a made link",
        Refused,
        &[
            "symlink\tscratch\t..\ta",
            "symlink\tscratch\ta/..\tb",
            "symlink\tscratch\tb/secret\tc",
            "open\td\tscratch\tfr\tc",
        ],
    );
    case(
        "a chain of 100 made links",
        Refused,
        &[
            &(0..100).map(|n| format!("symlink\tscratch\tl{}\tl{n}", n + 1)).collect::<Vec<_>>().join("\n"),
            "open\ta\tscratch\tfr\tl0",
        ],
    );
    case(
        "a made link to the parent, through it",
        Refused,
        &["symlink\tscratch\t..\tup", "list\tscratch", "open\ta\tscratch\tr\tup/secret"],
    );
    case(
        "a made link to the parent, made new under it",
        Refused,
        &["symlink\tscratch\t..\tup", "mkdir\tscratch\tup/new"],
    );
    case(
        "a made link to the parent, emptied",
        Refused,
        &["symlink\tscratch\t..\tup", "unlink\tscratch\tup/secret"],
    );
    case(
        "a made link to the parent, renamed through",
        Refused,
        &["symlink\tscratch\t..\tup", "rename\tscratch\tup/secret\tscratch\tstolen"],
    );
    case(
        "a made link to the parent, linked through",
        Refused,
        &["symlink\tscratch\t..\tup", "link\tscratch\t\tup/secret\tscratch\tstolen"],
    );
    case(
        "a folder swapped for a link after it was opened",
        Refused,
        &[
            "mkdir\tscratch\ta",
            "open\td\tscratch\tdrm\ta",
            "rename\tscratch\ta\tscratch\tb",
            "symlink\tscratch\t..\ta",
            "open\te\tscratch\tr\ta/secret",
        ],
    );
    case(
        "an opened folder moved up, its parent asked for",
        Refused,
        &[
            "mkdir\tscratch\ta",
            "mkdir\tscratch\ta/b",
            "open\td\tscratch\tdrm\ta/b",
            "rename\tscratch\ta/b\tscratch\tb",
            "open\te\td\tr\t../../secret",
        ],
    );
    case(
        "an opened folder that is gone",
        Refused,
        &["mkdir\tscratch\ta", "open\td\tscratch\tdrm\ta", "rmdir\tscratch\ta", "open\te\td\tcw\tnew"],
    );
    case("a folder moved into itself", Refused, &["mkdir\tscratch\ta", "rename\tscratch\ta\tscratch\ta/b"]);
    // Hard links and renames between the two, and out of them.
    for call in ["link\t{a}\t\t{o}\t{b}\t{n}", "link\t{a}\tf\t{o}\t{b}\t{n}", "rename\t{a}\t{o}\t{b}\t{n}"] {
        let verb = call.split('\t').next().unwrap_or_default();
        let flags = if call.contains("\tf\t") { ", followed" } else { "" };
        for (name, a, o, b, n) in [
            ("the plugin's file into scratch", "plugin", "model", "scratch", "model"),
            ("a file of scratch into the plugin", "scratch", "mine", "plugin", "mine"),
            ("a file of scratch over the plugin's", "scratch", "mine", "plugin", "model"),
            ("the plugin's file beside it", "plugin", "model", "plugin", "model-2"),
            ("the plugin's file through a folder", "plugin", "sub/inside", "scratch", "inside"),
            ("a file outside into scratch", "scratch", "../secret", "scratch", "stolen"),
            ("a file of scratch out of it", "scratch", "mine", "scratch", "../mine"),
            ("a file of scratch over one outside", "scratch", "mine", "scratch", "../secret"),
            ("an absolute file into scratch", "scratch", "/etc/passwd", "scratch", "stolen"),
            ("a file of scratch to an absolute place", "scratch", "mine", "scratch", "DIR/outside/new"),
            ("scratch itself", "scratch", ".", "scratch", "new"),
            ("the parent", "scratch", "..", "scratch", "new"),
            ("onto scratch itself", "scratch", "mine", "scratch", "."),
            ("onto the parent", "scratch", "mine", "scratch", ".."),
            ("a link of the plugin's", "plugin", "up", "scratch", "up"),
            ("onto nothing", "scratch", "mine", "scratch", ""),
        ] {
            let call = call.replace("{a}", a).replace("{o}", o).replace("{b}", b).replace("{n}", n);
            case(&format!("{verb} {name}{flags}"), Refused, &["open\ta\tscratch\tcw\tmine", &call]);
        }
    }
    case(
        "link a symlink and open it",
        Refused,
        &["symlink\tscratch\t../secret\ta", "link\tscratch\t\ta\tscratch\tb", "open\tc\tscratch\tfr\tb"],
    );
    case(
        "link into an opened folder of the plugin",
        Refused,
        &["open\ta\tscratch\tcw\tmine", "open\td\tplugin\tdr\tsub", "link\tscratch\t\tmine\td\tmine"],
    );
    case(
        "rename out of an opened folder of the plugin",
        Refused,
        &["open\td\tplugin\tdr\tsub", "rename\td\tinside\tscratch\tinside"],
    );
    // What changes something in the plugin's folder.
    for (name, call) in [
        ("write", "open\ta\tplugin\tw\tmodel"),
        ("read and write", "open\ta\tplugin\trw\tmodel"),
        ("truncate", "open\ta\tplugin\ttw\tmodel"),
        ("truncate, asking to read only", "open\ta\tplugin\ttr\tmodel"),
        ("create", "open\ta\tplugin\tcw\tnew"),
        ("create, asking to read only", "open\ta\tplugin\tcr\tnew"),
        ("create what is there", "open\ta\tplugin\tcr\tmodel"),
        ("create exclusively", "open\ta\tplugin\tcxw\tnew"),
        ("create exclusively what is there", "open\ta\tplugin\tcxr\tmodel"),
        ("create through a link", "open\ta\tplugin\tfcw\tup"),
        ("create a directory by open", "open\ta\tplugin\tcdr\tnew"),
        ("make a directory", "mkdir\tplugin\tnew"),
        ("make the directory that is there", "mkdir\tplugin\tsub"),
        ("make a link", "symlink\tplugin\tmodel\tnew"),
        ("remove a file", "unlink\tplugin\tmodel"),
        ("remove a file below", "unlink\tplugin\tsub/inside"),
        ("remove a link", "unlink\tplugin\tup"),
        ("remove a directory", "rmdir\tplugin\tsub"),
        ("remove itself", "rmdir\tplugin\t."),
        ("touch", "times\tplugin"),
        ("touch a file", "times-at\tplugin\t\tmodel"),
        ("touch through a link", "times-at\tplugin\tf\tup"),
        ("touch a link", "times-at\tplugin\t\tup"),
        ("write with synchronisation", "open\ta\tplugin\tsw\tmodel"),
    ] {
        case(&format!("in the plugin's folder: {name}"), Refused, &[call]);
    }
    let open = "open\ta\tplugin\tr\tmodel";
    for (name, call) in [
        ("write", "write\ta\t0\tx"),
        ("write by a stream", "write-stream\ta\t0\tx"),
        ("append", "append\ta\tx"),
        ("cut", "size\ta\t0"),
        ("grow", "size\ta\t100"),
        ("touch", "times\ta"),
    ] {
        case(&format!("in a file of the plugin opened for reading: {name}"), Refused, &[open, call]);
    }
    case(
        "a folder of the plugin opened to be changed",
        Refused,
        &["open\ta\tplugin\tdrm\tsub", "open\tb\ta\tcw\tnew"],
    );
    case("a folder below, through it", Refused, &["open\ta\tplugin\tdr\tsub", "mkdir\ta\tnew"]);
    // Kinds that are mistaken for others.
    for (name, calls) in [
        ("a file opened as a directory", &["open\ta\tplugin\tdr\tmodel"][..]),
        ("a directory opened to be written", &["mkdir\tscratch\ta", "open\tb\tscratch\tw\ta"]),
        ("a directory truncated", &["mkdir\tscratch\ta", "open\tb\tscratch\ttw\ta"]),
        ("a directory read", &["open\ta\tplugin\tdr\tsub", "read\ta"]),
        ("a directory read by a stream", &["open\ta\tplugin\tdr\tsub", "read-stream\ta"]),
        ("a directory written", &["write\tscratch\t0\tx"]),
        ("a directory cut", &["size\tscratch\t0"]),
        ("a file listed", &["open\ta\tplugin\tr\tmodel", "list\ta"]),
        ("a file opened under a file", &["open\ta\tplugin\tr\tmodel", "open\tb\ta\tr\t../secret"]),
        ("a file opened under itself", &["open\ta\tplugin\tr\tmodel", "open\tb\ta\tr\t."]),
        ("a link made under a file", &["open\ta\tscratch\tcw\tm", "symlink\ta\tx\ty"]),
        ("a file removed as a directory", &["open\ta\tscratch\tcw\tm", "rmdir\tscratch\tm"]),
        ("a directory removed as a file", &["mkdir\tscratch\ta", "unlink\tscratch\ta"]),
        ("a directory that is not empty", &["mkdir\tscratch\ta", "mkdir\tscratch\ta/b", "rmdir\tscratch\ta"]),
        ("scratch itself removed", &["rmdir\tscratch\t."]),
        ("scratch itself removed from below", &["mkdir\tscratch\ta", "rmdir\tscratch\ta/.."]),
        ("the parent removed", &["rmdir\tscratch\t.."]),
        ("the parent's file removed", &["unlink\tscratch\t../secret"]),
        ("a directory made above", &["mkdir\tscratch\t../new"]),
        ("a directory made far away", &["mkdir\tscratch\tDIR/outside/new"]),
        ("a file made exclusively twice", &["open\ta\tscratch\tcxw\tm", "open\tb\tscratch\tcxw\tm"]),
        (
            "a file made exclusively over a link",
            &["symlink\tscratch\t../new\tm", "open\tb\tscratch\tfcxw\tm"],
        ),
        ("reading far beyond the end", &["open\ta\tplugin\tr\tmodel", "read\ta\t18446744073709551615"]),
    ] {
        case(name, Refused, calls);
    }
    // What is known of places outside.
    for (name, path) in
        [("the parent", ".."), ("a file", "../secret"), ("far away", "DIR/outside/secret"), ("/", "/")]
    {
        case(&format!("look at {name}"), Refused, &[&format!("stat-at\tplugin\t\t{path}")]);
        case(&format!("the identity of {name}"), Refused, &[&format!("hash-at\tscratch\tf\t{path}")]);
        case(&format!("touch {name}"), Refused, &[&format!("times-at\tscratch\tf\t{path}")]);
        case(&format!("what link {name} is"), Refused, &[&format!("readlink\tscratch\t{path}")]);
    }
    case("scratch lists itself alone", Inside(""), &["list\tscratch"]);
    case("the two are not the same", Inside("false"), &["same\tscratch\tplugin"]);
    case(
        "its parent under another name",
        Inside("true"),
        &["mkdir\tscratch\ta", "open\tb\tscratch\tdr\ta/..", "same\tscratch\tb"],
    );
    case("many ups inside", Inside("inside"), &["open\ta\tplugin\tfr\tsub/../sub/../sub/inside", "read\ta"]);
    case("synchronising", Inside("done"), &["sync\tscratch"]);
    case("advice", Inside("done"), &[open, "advise\ta"]);
    cases
}
