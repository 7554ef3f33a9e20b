//! What cmd.exe has inside, and the few programs that are there.

use std::{fmt::Write as _, time::Duration};

use super::{
    super::{
        script::{ScriptCall, ScriptOutput, program_name},
        windows::{SslKey, Windows, WindowsError},
    },
    line,
};

/// Programs that read standard input when they are given no file.
const FILTERS: [&str; 3] = ["sort", "findstr", "more"];

/// Whether a line begins with a program that reads its standard input.
pub(super) fn reads_stdin(line: &str) -> bool {
    let words = line::words(line);
    let Some((program, rest)) = words.split_first() else { return false };
    let arguments = rest.iter().filter(|word| !word.starts_with('/')).count();
    match program_name(program).as_str() {
        "findstr" => arguments == 1,
        name => FILTERS.contains(&name) && arguments == 0,
    }
}

/// Whether nothing runs after this command.
pub(super) fn ends_the_line(text: &str) -> bool {
    line::words(text).first().is_some_and(|word| word.eq_ignore_ascii_case("exit"))
}

/// An absolute path for one that may be relative to a directory.
pub(super) fn absolute(path: &str, directory: &str) -> String {
    let path = path.replace('/', "\\");
    match path.as_bytes() {
        [b'\\', b'\\', ..] | [_, b':', ..] => path,
        [b'\\', ..] => format!("{}{path}", &directory[..2.min(directory.len())]),
        _ => format!("{}\\{path}", directory.trim_end_matches('\\')),
    }
}

/// `cd` with a directory: where the shell is afterwards.
pub(super) fn change_directory(windows: &Windows, call: &ScriptCall) -> Option<Result<String, ScriptOutput>> {
    let [program, rest @ ..] = call.argv.as_slice() else { return None };
    let directory = rest.iter().find(|word| !word.eq_ignore_ascii_case("/d"))?;
    if !matches!(program.to_lowercase().as_str(), "cd" | "chdir") {
        return None;
    }
    let wanted = absolute(directory, &call.working_directory);
    Some(match windows.files.info(&wanted) {
        Ok(info) if info.directory => Ok(info.path),
        _ => Err(ScriptOutput::failure(1, "The system cannot find the path specified.\r\n")),
    })
}

/// Runs one command.
pub(super) fn run(windows: &mut Windows, call: &ScriptCall) -> ScriptOutput {
    let Some((program, arguments)) = call.argv.split_first() else { return ScriptOutput::default() };
    let name = program_name(program);
    let rest = call.command_line.trim_start().get(program.len()..).unwrap_or_default();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let files: Vec<String> = words
        .iter()
        .filter(|word| !word.starts_with('/'))
        .map(|word| absolute(word, &call.working_directory))
        .collect();
    let outcome = match (name.as_str(), files.as_slice()) {
        ("echo", _) => return ScriptOutput::text(format!("{}\r\n", rest.strip_prefix(' ').unwrap_or(rest))),
        ("rem", _) | ("chcp", _) => return ScriptOutput::default(),
        ("exit", _) => {
            let code = words.iter().find_map(|word| word.parse().ok()).unwrap_or(0);
            return ScriptOutput::default().exit(code);
        }
        ("cmd", _) => return inner(windows, call),
        ("set", _) => return ScriptOutput::text(variables(call)),
        ("cd" | "chdir", _) => return ScriptOutput::text(format!("{}\r\n", call.working_directory)),
        ("ver", _) => {
            return ScriptOutput::text(format!("\r\nMicrosoft Windows [Version 10.0.{}]\r\n", windows.build()));
        }
        ("hostname", _) => return ScriptOutput::text(format!("{}\r\n", windows.computer_name)),
        ("whoami", _) => {
            let whole = format!("{}\\{}\r\n", windows.computer_name, call.user).to_lowercase();
            return ScriptOutput::text(whole);
        }
        ("ipconfig", _) => return ScriptOutput::text(IPCONFIG),
        ("ping", _) => return ping(&words),
        ("sort", []) => return ScriptOutput::text(sorted(&call.text())),
        ("more", []) => return ScriptOutput::text(call.text()),
        ("findstr", _) => return findstr(&words, &call.text()),
        ("net", _) => service(windows, &words),
        ("netsh", _) => Ok(netsh(windows)),
        ("certutil", _) => hash_file(windows, &words, &call.working_directory),
        ("type", [file]) => windows.files.read(file).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()),
        ("del" | "erase", [file]) => windows.files.delete(file).map(|()| String::new()),
        ("mkdir" | "md", [directory]) => windows.files.create_directories(directory).map(|()| String::new()),
        ("rmdir" | "rd", [directory]) => windows.files.remove_directory(directory).map(|()| String::new()),
        ("copy", [from, to]) => windows.files.copy(from, to, true).map(|()| "        1 file(s) copied.\r\n".to_owned()),
        ("move", [from, to]) => windows.files.rename(from, to).map(|()| "        1 file(s) moved.\r\n".to_owned()),
        ("dir", directories) => {
            let directory = directories.first().unwrap_or(&call.working_directory);
            let list = windows.files.list(directory);
            list.map(|list| list.iter().map(|info| format!("{}\r\n", file_name(&info.path))).collect())
        }
        _ => {
            let message = format!(
                "'{program}' is not recognized as an internal or external command,\r\noperable program or batch \
                 file.\r\n"
            );
            return ScriptOutput::failure(1, message);
        }
    };
    match outcome {
        Ok(stdout) => ScriptOutput::text(stdout),
        Err(error) => ScriptOutput::failure(1, format!("{}\r\n", short(&error))),
    }
}

const IPCONFIG: &str = "\r\nWindows IP Configuration\r\n\r\n\r\nEthernet adapter Ethernet:\r\n\r\n   \
    Connection-specific DNS Suffix  . : \r\n   IPv4 Address. . . . . . . . . . . : 127.0.0.1\r\n   \
    Subnet Mask . . . . . . . . . . . : 255.0.0.0\r\n   Default Gateway . . . . . . . . . : \r\n";

/// `cmd /c` with a command that is built in.
fn inner(windows: &mut Windows, call: &ScriptCall) -> ScriptOutput {
    let at = call.argv.iter().position(|word| word.eq_ignore_ascii_case("/c"));
    let Some(words) = at.and_then(|at| call.argv.get(at + 1..)).filter(|words| !words.is_empty()) else {
        return ScriptOutput::text("Microsoft Windows\r\n");
    };
    let line = words.join(" ");
    let mut called = super::call(&line, &call.user, &call.environment, &call.working_directory);
    called.stdin.clone_from(&call.stdin);
    if called.script.is_some() || program_name(&words[0]) == "cmd" {
        return ScriptOutput::failure(1, "cmd inside cmd is not simulated.\r\n");
    }
    run(windows, &called)
}

/// What cmd.exe prints for the failures it knows.
fn short(error: &WindowsError) -> &str {
    match error.code {
        0x8007_0002 => "The system cannot find the file specified.",
        0x8007_0003 => "The system cannot find the path specified.",
        0x8007_0005 => "Access is denied.",
        0x8007_0020 => "The process cannot access the file because it is being used by another process.",
        _ => &error.message,
    }
}

fn file_name(path: &str) -> &str {
    path.rsplit('\\').next().unwrap_or(path)
}

fn variables(call: &ScriptCall) -> String {
    call.environment.iter().fold(String::new(), |mut text, (name, value)| {
        let _ = write!(text, "{name}={value}\r\n");
        text
    })
}

fn sorted(text: &str) -> String {
    let mut lines: Vec<&str> = text.lines().collect();
    lines.sort_by_key(|line| line.to_lowercase());
    lines.iter().map(|line| format!("{line}\r\n")).collect()
}

fn findstr(words: &[&str], text: &str) -> ScriptOutput {
    let wanted = words.iter().find(|word| !word.starts_with('/')).copied().unwrap_or_default();
    let wanted = wanted.trim_start_matches('^');
    let found: String = text.lines().filter(|line| line.contains(wanted)).map(|line| format!("{line}\r\n")).collect();
    let exit_code = i32::from(found.is_empty());
    ScriptOutput::text(found).exit(exit_code)
}

/// `ping -n N 127.0.0.1`, which scripts use to wait for N - 1 seconds.
fn ping(words: &[&str]) -> ScriptOutput {
    let after = words.iter().position(|word| word.eq_ignore_ascii_case("-n")).and_then(|at| words.get(at + 1));
    let count: u64 = after.and_then(|count| count.parse().ok()).unwrap_or(4);
    let lines =
        "Reply from 127.0.0.1: bytes=32 time<1ms TTL=128\r\n".repeat(usize::try_from(count).unwrap_or(4).min(10_000));
    ScriptOutput::text(lines).after(Duration::from_secs(count.saturating_sub(1)))
}

fn service(windows: &mut Windows, words: &[&str]) -> Result<String, WindowsError> {
    let [verb, name] = words else { return Err(WindowsError::invalid_parameter("net")) };
    let key = name.to_lowercase();
    let service = windows.services.get_mut(&key);
    let service = service.ok_or_else(|| WindowsError::new(0x8007_0889, "", "The service name is invalid."))?;
    match *verb {
        "start" if !service.running => {
            (service.running, service.starts) = (true, service.starts + 1);
            Ok(format!("The {name} service was started successfully.\r\n"))
        }
        "stop" if service.running => {
            service.running = false;
            Ok(format!("The {name} service was stopped successfully.\r\n"))
        }
        "start" => Err(WindowsError::new(0x8007_0420, "", "The requested service has already been started.")),
        _ => Err(WindowsError::new(0x8007_0426, "", format!("The {name} service is not started."))),
    }
}

/// `netsh http show sslcert`.
fn netsh(windows: &Windows) -> String {
    let mut text = "\r\nSSL Certificate bindings:\r\n-------------------------\r\n\r\n".to_owned();
    for (key, entry) in windows.http_sys.entries() {
        let (label, value) = match key {
            SslKey::IpPort(address, port) => ("IP:port", format!("{address}:{port}")),
            SslKey::HostPort(host, port) => ("Hostname:port", format!("{host}:{port}")),
            SslKey::Ccs(port) => ("Central Certificate Store", port.to_string()),
        };
        let _ = write!(
            text,
            "    {label:<28} : {value}\r\n    {:<28} : {}\r\n    {:<28} : {}\r\n    {:<28} : {}\r\n\r\n",
            "Certificate Hash",
            entry.certificate_hash.to_lowercase(),
            "Application ID",
            entry.app_id,
            "Certificate Store Name",
            entry.store
        );
    }
    text
}

/// `certutil -hashfile PATH SHA256`.
fn hash_file(windows: &Windows, words: &[&str], directory: &str) -> Result<String, WindowsError> {
    match words {
        [option, path, algorithm]
            if option.eq_ignore_ascii_case("-hashfile") && algorithm.eq_ignore_ascii_case("sha256") =>
        {
            let hash = windows.files.sha256(&absolute(path, directory))?;
            Ok(format!("SHA256 hash of {path}:\r\n{hash}\r\nCertUtil: -hashfile command completed successfully.\r\n"))
        }
        _ => Err(WindowsError::invalid_parameter("certutil")),
    }
}
