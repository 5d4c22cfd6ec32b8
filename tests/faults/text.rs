//! Calibration files as people have them: taken as they are meant, or named in one sentence.

use std::path::PathBuf;

use anyhow::Result;
use dq_gpu::calibration::{ChatTemplate, Document, load};
use serde_json::{Value as Json, json};

use super::templates::documents;

/// Without a template, so that the text shows what was read.
fn read(name: &str, content: impl AsRef<[u8]>) -> Result<Vec<String>> {
    let none = ChatTemplate::from_source(None, "", "")?;
    let documents = documents(name, content, &none)?;
    assert!(documents.iter().all(|document| !document.chat));
    Ok(documents.into_iter().map(|document| document.text).collect())
}

/// With a template that shows roles.
fn chats(name: &str, content: &str) -> Vec<String> {
    let template = "{% for m in messages %}<{{ m.role }}>{{ m.content }}\
        {% for c in m.tool_calls or [] %}[{{ c.function.name }} {{ c.function.arguments|tojson }}]{% endfor %}{% endfor %}";
    let template = ChatTemplate::from_source(Some(template), "", "").unwrap();
    documents(name, content, &template).unwrap().into_iter().map(|document| document.text).collect()
}

fn fails(name: &str, content: impl AsRef<[u8]>) -> String {
    let none = ChatTemplate::from_source(None, "", "").unwrap();
    // a folder of the system's, whose name says nothing
    format!("{:#}", documents(name, content, &none).unwrap_err())
}

#[test]
fn conversations_of_every_shape_are_taken() {
    let user = || json!({"role": "user", "content": "Say hi"});
    let assistant = || json!({"role": "assistant", "content": "hi"});
    let shapes: Vec<(Json, &str)> = vec![
        (json!({"messages": [user(), assistant()]}), "<user>Say hi<assistant>hi"),
        (json!([user(), assistant()]), "<user>Say hi<assistant>hi"),
        (json!({"messages": json!([user(), assistant()]).to_string()}), "<user>Say hi<assistant>hi"),
        (json!({"prompt": "Say hi", "completion": "hi"}), "<user>Say hi<assistant>hi"),
        (json!({"prompt": [user()], "completion": [assistant()]}), "<user>Say hi<assistant>hi"),
        (json!({"prompt": "Say hi", "chosen": "hi", "rejected": "no"}), "<user>Say hi<assistant>hi"),
        (json!({"prompt": [user()], "chosen": [assistant()], "rejected": []}), "<user>Say hi<assistant>hi"),
        (json!({"prompt": "Say hi", "chosen": [user(), assistant()]}), "<user>Say hi<assistant>hi"),
        (json!({"chosen": [user(), assistant()], "rejected": [user()]}), "<user>Say hi<assistant>hi"),
        (json!({"prompt": "Say hi"}), "<user>Say hi"),
        (json!({"prompt": [user()]}), "<user>Say hi"),
        (json!({"prompt": "[1, 2]", "response": "{}"}), "<user>[1, 2]<assistant>{}"),
        (json!({"instruction": "Add", "input": "1 2", "output": "3"}), "<user>Add\n\n1 2<assistant>3"),
        (
            json!({"instruction": "Say hi", "input": "", "output": "hi", "system": "S"}),
            "<system>S<user>Say hi<assistant>hi",
        ),
        (json!({"instruction": "c", "output": "d", "history": [["a", "b"]]}), "<user>a<assistant>b<user>c<assistant>d"),
        (json!({"input": "Say hi", "output": "hi"}), "<user>Say hi<assistant>hi"),
        (json!({"role": "user", "content": "Say hi"}), "<user>Say hi"),
        (json!({"contents": [{"role": "model", "parts": [{"text": "hi"}]}]}), "<assistant>hi"),
        (
            json!({"system": "s", "conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"},
                {"from": "function_call", "value": "{\"name\": \"f\", \"arguments\": {\"x\": 1}}"},
                {"from": "observation", "value": "ok"}, {"from": "function_call", "value": "{}"}]}),
            "<system>s<user>a<assistant>b<assistant>[f {\"x\": 1}]<tool>ok<assistant>{}",
        ),
        (json!({"messages": [{"role": "user", "content": 42}, {"role": "user"}]}), "<user>42<user>"),
        (json!({"messages": [{"role": "tool", "content": {"temp": 21}}]}), "<tool>{'temp': 21}"),
    ];
    for (json, text) in shapes {
        assert_eq!(chats("a.jsonl", &format!("{json}\n")), [text], "{json}");
        assert_eq!(chats("a.json", &json!({"data": [json]}).to_string()), [text], "{json}");
    }
}

#[test]
fn without_a_template_calls_tools_and_reasoning_are_text_too() {
    let line = json!({"messages": [{"role": "user", "content": "w?"},
        {"role": "assistant", "content": null, "reasoning_content": "hm", "tool_calls": [{"function": {"name": "f"}}]},
        {"role": "tool", "content": {"temp": 21}}, {"role": "assistant", "content": ""}], "tools": [{"name": "f"}]});
    assert_eq!(
        read("a.jsonl", line.to_string()).unwrap(),
        ["{\"name\":\"f\"}\n\nw?\n\nhm\n{\"name\":\"f\"}\n\n{\"temp\":21}"]
    );
}

#[test]
fn json_is_read_however_it_is_laid_out() {
    let both = ["some text", "other"];
    for (name, content) in [
        ("a.jsonl", "[{\"text\": \"some text\"}, {\"text\": \"other\"}]\n"),
        ("a.json", "[{\"text\": \"some text\"}, {\"text\": \"other\"}]"),
        ("a.json", "{\"text\": \"some text\"}\n{\"text\": \"other\"}\n"),
        ("a.jsonl", "{\n \"text\": \"some text\"\n}\n{\n \"text\": \"other\"\n}\n"),
        ("a.jsonl", "{\"text\": \"some text\"}\r\n\r\n{\"text\": \"other\"}\r\n"),
        ("a.jsonl", "{\"text\": \"some text\"}\r{\"text\": \"other\"}\r"),
        ("a.ndjson", "\u{feff}{\"text\": \"some text\", \"score\": NaN}\n{\"x\": [-Infinity], \"text\": \"other\"}\n"),
        (
            "a.json",
            "{\"rows\": [{\"row_idx\": 0, \"row\": {\"text\": \"some text\"}}, {\"row\": {\"text\": \"other\"}}]}",
        ),
        ("a.json", "{\"data\": [{\"text\": \"some text\"}], \"x\": 1}\n{\"train\": [\"other\"]}"),
        ("a.json", "{\"text\": [\"some text\", \"other\"]}"),
        (
            "a.jsonl",
            "{\"text\": \"some text\"}\n{\"text\": null}\n[]\nnull\n{\"messages\": []}\n{\"text\": \" \"}\n\"other\"\n",
        ),
        ("a.csv", "text,label\n\"some text\",1\n,2\nother,3\n"),
        ("a.tsv", "id\ttext\r\n1\tsome text\r\n2\tother\r\n"),
    ] {
        assert_eq!(read(name, content).unwrap(), both, "{content:?}");
    }
    assert_eq!(read("a.jsonl", "{\"text\":\"bad \\ud83d emoji\"}").unwrap(), ["bad \u{fffd} emoji"]);
    assert_eq!(read("a.jsonl", "{\"text\":\"line\u{2028}sep\"}").unwrap(), ["line\u{2028}sep"]);
    assert_eq!(read("a.csv", "prompt,response\n\"a\nb\",c\n").unwrap(), ["a\nb\n\nc"]);
}

#[test]
fn plain_text_is_read_in_the_encodings_that_it_says() {
    assert_eq!(read("a.txt", "\u{feff}Some text\r\nwith DOS lines\r\n").unwrap(), ["Some text\r\nwith DOS lines\r\n"]);
    assert_eq!(read("Ünï code name.txt", "hello world\n").unwrap(), ["hello world\n"]);
    assert_eq!(read("a.txt", "abcdefgh\0def\n").unwrap(), ["abcdefgh\0def\n"]);
    assert_eq!(read("no-ending", b"\xff\xfeh\0i\0").unwrap(), ["hi"]);
}

#[test]
fn what_cannot_be_read_is_named_with_its_line() {
    for (name, content, parts) in [
        ("a.jsonl", "{\"text\": \"x\"}\n{\"text\": \"cut of\n{\"text\": \"y\"}\n", &["a.jsonl", "line 2", "EOF"][..]),
        ("a.jsonl", "{\"text\": \"x\"}\n{\"messages\": [{\"content\": \"x\"}]}", &["line 2", "message 1", "no `role`"]),
        ("a.json", "{\"data\": [{\"text\": \"x\"}, {\"label\": 3, \"n\": 1}]}", &["document 2", "`label`, `n`"]),
        ("a.jsonl", "{\"prompt\": \"x\", \"response\": 3}", &["line 1", "`response`"]),
        ("a.jsonl", "{\"text\": 3}", &["line 1", "`text` is no text"]),
        ("a.jsonl", "{\"messages\": \"hello\"}", &["line 1", "`messages` is no list"]),
        ("a.jsonl", "17", &["line 1", "`17`"]),
        ("a.json", "{\"text\": ", &["a.json", "EOF"]),
        ("a.csv", "a,b\n1,2\n", &["a.csv", "line 2", "`a`, `b`"]),
        ("a.csv", "text,b\nx,1\ny\n", &["a.csv", "line: 3"]),
        ("empty.txt", "", &["there is no calibration text in", "empty.txt"]),
        ("spaces.txt", "   \n\n", &["there is no calibration text in"]),
        ("a.jsonl", "{\"messages\": []}\n", &["there is no calibration text in"]),
    ] {
        let error = fails(name, content);
        assert!(parts.iter().all(|part| error.contains(part)), "{content:?}: {error}");
    }
    let error = fails("latin.txt", b"ok\ncaf\xe9 is not utf-8\n");
    assert!(error.contains("latin.txt") && error.contains("line 2") && error.contains("UTF-8"), "{error}");
    for (content, what) in [(&b"PAR1\x15\x02"[..], "Parquet"), (b"\x1f\x8b\x08\0\0", "gunzip"), (b"PK\x03\x04x", "zip")]
    {
        assert!(fails("data.jsonl.gz", content).contains(what));
    }
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    assert!(fails("deep.json", &deep).contains("recursion limit"));
    assert!(fails("lists.json", "[".repeat(20) + "\"x\"" + &"]".repeat(20)).contains("nest"));
}

fn texts(paths: &[PathBuf]) -> Result<Vec<Document>> {
    load(paths, &ChatTemplate::from_source(None, "", "")?)
}

#[cfg(unix)]
#[test]
fn folders_with_pipes_devices_and_links_in_circles_are_read_around_them() {
    use std::os::unix::fs::symlink;
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    std::fs::create_dir(at("sub")).unwrap();
    std::fs::create_dir(at(".git")).unwrap();
    std::fs::write(at("a.txt"), "first").unwrap();
    std::fs::write(at("sub/b.txt"), "second").unwrap();
    std::fs::write(at(".git/c.txt"), "hidden").unwrap();
    std::fs::write(at("model.bin"), "no text").unwrap();
    assert!(std::process::Command::new("mkfifo").arg(at("pipe.txt")).status().unwrap().success());
    let _socket = std::os::unix::net::UnixListener::bind(at("socket.txt")).unwrap();
    symlink("/dev/zero", at("zeros.txt")).unwrap();
    symlink("self.txt", at("self.txt")).unwrap();
    symlink("nowhere", at("gone.txt")).unwrap();
    symlink("..", at("sub/up")).unwrap();
    symlink("../sub", at("sub/again")).unwrap();
    let found: Vec<String> = texts(&[folder.path().to_owned()]).unwrap().into_iter().map(|d| d.text).collect();
    assert_eq!(found, ["first", "second"]);
    for (name, what) in
        [("pipe.txt", "a pipe"), ("socket.txt", "a socket"), ("zeros.txt", "a device"), ("self.txt", "symbolic links")]
    {
        let error = format!("{:#}", texts(&[at(name)]).unwrap_err());
        assert!(error.contains(name) && error.contains(what), "{error}");
    }
    let large = std::fs::File::create(at("large.txt")).unwrap();
    large.set_len(5 << 30).unwrap();
    assert!(format!("{:#}", texts(&[at("large.txt")]).unwrap_err()).contains("5 GiB"));
}
