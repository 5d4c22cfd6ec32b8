//! Chat templates: which one counts, what it is handed, and what a hostile one can do.

use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Result, bail};
use dq_gpu::calibration::{ChatTemplate, Document, Renderer, Sandbox, Setup, load};
use dq_gpu::tokenizer::Tokenizer;
use serde_json::{Value as Json, json};

/// The program, as it starts itself to render.
pub fn render_process() -> Result<Command> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_dq-gpu"));
    command.arg("render-chat-template");
    Ok(command)
}

pub fn setup(template: &str) -> Setup {
    let tokens = [("bos_token", "<s>"), ("eos_token", "</s>")].map(|(name, text)| (name.to_owned(), text.to_owned()));
    Setup { default: Some(template.to_owned()), tokens: tokens.into(), ..Setup::default() }
}

pub fn sandbox(setup: Setup) -> Sandbox<'static> {
    Sandbox::new(setup, render_process, || Ok(()))
}

/// The documents of one file with this content.
pub fn documents(name: &str, content: impl AsRef<[u8]>, template: &dyn Renderer) -> Result<Vec<Document>> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join(name);
    std::fs::write(&file, content)?;
    load(&[file], template)
}

/// The only document of a line.
fn rendered(line: &Json, template: &str) -> Document {
    let all = documents("d.jsonl", line.to_string(), &sandbox(setup(template))).unwrap();
    let [document] = all.as_slice() else { panic!("{all:?}") };
    document.clone()
}

fn chat(text: &str) -> Document {
    Document { domain: "d".to_owned(), text: text.to_owned(), chat: true }
}

fn plain(text: &str) -> Document {
    Document { chat: false, ..chat(text) }
}

fn hello() -> Json {
    json!({"messages": [{"role": "user", "content": "Hi there"}, {"role": "assistant", "content": "Hello"}]})
}

const TOOLS: &str = "{%- if tools %}{{- '[tools]' }}{%- for x in tools %}{{- x|tojson }}{%- endfor %}{%- endif %}
{%- for m in messages %}{{- '[' + m.role + ']' }}
{%- if m.reasoning_content %}{{- '<think>' + m.reasoning_content + '</think>' }}{%- endif %}
{%- if m.content %}{{- m.content }}{%- endif %}
{%- for c in m.tool_calls or [] %}{{- '<call ' + c.id + '>' + c.function.name + ' ' }}
{%- for key, value in c.function.arguments|items %}{{- key ~ '=' ~ value }}{%- endfor %}{%- endfor %}
{%- if m.tool_call_id is defined %}{{- '(' + m.tool_call_id + ')' }}{%- endif %}
{%- endfor %}";

#[test]
fn a_template_is_handed_tools_calls_and_reasoning() {
    let tool = json!({"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object"}}});
    let call = json!({"id": "c1", "type": "function",
        "function": {"name": "get_weather", "arguments": {"city": "Rome", "exact": true}}});
    let line = json!({"messages": [
        {"role": "user", "content": "Weather in Rome?", "tool_calls": null},
        {"role": "assistant", "content": null, "reasoning_content": "Look it up.", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": "{\"temp\": 21}"},
        {"role": "assistant", "content": "21 degrees."},
    ], "tools": [tool]});
    let text = "[tools]{\"type\": \"function\", \"function\": {\"name\": \"get_weather\", \"parameters\": {\"type\": \"object\"}}}\
        [user]Weather in Rome?[assistant]<think>Look it up.</think><call c1>get_weather city=Romeexact=True\
        [tool]{\"temp\": 21}(c1)[assistant]21 degrees.";
    assert_eq!(rendered(&line, TOOLS), chat(text));
    // OpenAI's form of the same: everything nested is text
    let mut quoted = line.clone();
    quoted["tools"] = line["tools"].to_string().into();
    let arguments = &mut quoted["messages"][1]["tool_calls"][0]["function"]["arguments"];
    *arguments = arguments.to_string().into();
    assert_eq!(rendered(&quoted, TOOLS), chat(text));
    quoted["messages"] = quoted["messages"].to_string().into();
    assert_eq!(rendered(&quoted, TOOLS), chat(text));
}

#[test]
fn arguments_become_text_where_the_template_joins_them() {
    let template = "{% for m in messages %}{% for c in m.tool_calls %}{{ c.function.name + c.function.arguments }}{% endfor %}{% endfor %}";
    let call = json!({"function": {"name": "f", "arguments": {"a": [1, "é"]}}});
    let line = json!({"messages": [{"role": "assistant", "tool_calls": [call]}]});
    assert_eq!(rendered(&line, template), chat("f{\"a\": [1, \"é\"]}"));
}

#[test]
fn documents_settings_and_all_special_tokens_are_handed_over() {
    let template =
        "{{ bos_token }}{{ pad_token }}{{ enable_thinking }}{{ documents[0].title }}{{ messages[0].content }}";
    let mut setup = setup(template);
    setup.tokens.push(("pad_token".to_owned(), "<pad>".to_owned()));
    let line = json!({"messages": [{"role": "user", "content": "q"}], "documents": [{"title": "T", "text": "x"}],
        "chat_template_kwargs": {"enable_thinking": false}});
    assert_eq!(documents("d.jsonl", line.to_string(), &sandbox(setup)).unwrap(), [chat("<s><pad>FalseTq")]);
}

#[test]
fn parts_reach_templates_that_take_them_and_are_joined_for_others() {
    let line = json!({"messages": [
        {"role": "user", "content": [{"type": "text", "text": "What"}, {"type": "image_url", "image_url": {"url": "x"}},
            {"type": "text", "text": "is it?"}]},
        {"role": "assistant", "content": "A cat."},
    ]});
    let takes = "{% for m in messages %}{% if m.content is string %}{{ m.content }}{% else %}\
        {% for p in m.content %}<{{ p.text }}>{% endfor %}{% endif %};{% endfor %}";
    assert_eq!(rendered(&line, takes), chat("<What><is it?>;A cat.;"));
    let only = "{% for m in messages %}{% for p in m.content %}<{{ p.text }}>{% endfor %};{% endfor %}";
    assert_eq!(rendered(&line, only), chat("<What><is it?>;<A cat.>;"));
    let joins = "{% for m in messages %}{{ m.content + ';' }}{% endfor %}";
    assert_eq!(rendered(&line, joins), chat("What\nis it?;A cat.;"));
    let prints = "{% for m in messages %}{{ m.content }};{% endfor %}";
    assert_eq!(rendered(&line, prints), chat("What\nis it?;A cat.;"));
}

#[test]
fn json_is_written_in_the_style_asked_for() {
    let template =
        "{{ {'b': ['é😀', 1.5], 'a': none}|tojson(sort_keys=true, separators=(',', ':'), ensure_ascii=true) }}";
    assert_eq!(rendered(&hello(), template), chat("{\"a\":null,\"b\":[\"\\u00e9\\ud83d\\ude00\",1.5]}"));
}

/// As Jinja 3.1 does it; Command R's template lives by it.
#[test]
fn lines_are_indented_as_jinja_does() {
    let template = "{{ '{\\n'|indent(4, first=True) }}|{{ 'a\\n\\nb'|indent(2) }}|{{ 'a\\n\\nb'|indent(width=2, blank=true) }}|{{ ''|indent }}";
    assert_eq!(rendered(&hello(), template), chat("    {\n|a\n\n  b|a\n  \n  b|"));
}

#[test]
fn a_template_of_no_use_leaves_plain_text() {
    let refuses = "{{ raise_exception('no') }}";
    for template in ["{% for m in messages %}{{ m.content }", refuses, "", "{# nothing #}"] {
        assert_eq!(rendered(&hello(), template), plain("Hi there\n\nHello"), "{template}");
    }
    let named = Setup { default: None, names: vec!["rag".to_owned()], ..setup("") };
    let all = documents("d.jsonl", hello().to_string(), &sandbox(named)).unwrap();
    assert_eq!(all, [plain("Hi there\n\nHello")]);
}

#[test]
fn a_conversation_that_is_rejected_leaves_the_others() {
    let template = "{% for m in messages %}{% if m.role == 'x' %}{{ raise_exception('no') }}{% endif %}{{ m.content }};{% endfor %}";
    let odd = json!({"messages": [{"role": "x", "content": "odd"}]});
    let text = format!("{}\n{}\n{}\n", hello(), odd, hello());
    let all = documents("d.jsonl", text, &sandbox(setup(template))).unwrap();
    assert_eq!(all, [chat("Hi there;Hello;"), chat("Hi there;Hello;")]);
}

/// Each would end or occupy a process without limits.
fn hostile() -> Vec<String> {
    let looped = |body: &str, times: u32, setup: &str, end: &str| {
        format!("{{% set ns = namespace({setup}) %}}{{% for i in range({times}) %}}{body}{{% endfor %}}{end}")
    };
    let forever = "{% macro f(n) %}{{ f(n + 1) }}{% endmacro %}{{ f(0) }}".to_owned();
    let nested = |open: &str, middle: &str, close: &str, times: usize| {
        format!("{}{middle}{}", open.repeat(times), close.repeat(times))
    };
    vec![
        // values that hold themselves
        "{% set ns = namespace() %}{% set ns.ns = ns %}{{ ns }}".to_owned(),
        "{% set ns = namespace() %}{% set ns.ns = [ns] %}{{ ns|tojson }}".to_owned(),
        "{% set a = namespace() %}{% set b = namespace() %}{% set a.b = b %}{% set b.a = a %}{{ a ~ 'x' }}".to_owned(),
        "{% set a = namespace() %}{% set a.a = a %}{% set b = namespace() %}{% set b.a = b %}{{ a == b }}".to_owned(),
        "{% set ns = namespace() %}{% set ns.x = {'x': ns} %}{{ ns|string|length }}".to_owned(),
        // deep values and deep syntax
        looped("{% set ns.x = [ns.x] %}", 100_000, "x=[]", "{{ ns.x }}"),
        looped("{% set ns.x = {'a': ns.x} %}", 100_000, "x=1", "{{ ns.x|tojson }}"),
        format!("{{{{ {} 1 }}}}", "-".repeat(100_000)),
        format!("{{{{ {} 1 }}}}", "not ".repeat(100_000)),
        format!("{{{{ {} }}}}", nested("(", "1", ")", 100_000)),
        format!("{{{{ {} }}}}", nested("[", "1", "]", 100_000)),
        format!("{{{{ 1{} }}}}", "|abs".repeat(1_000_000)),
        format!("{{{{ x{} }}}}", ".a".repeat(1_000_000)),
        format!("{{{{ 1{} }}}}", " ~ 1".repeat(1_000_000)),
        nested("{% if true %}", "x", "{% endif %}", 100_000),
        nested("{% for a in [1] %}", "x", "{% endfor %}", 100_000),
        forever,
        "{% include 'chat_template' %}".to_owned(),
        "{% import 'chat_template' as x %}{{ x }}".to_owned(),
        "{% extends 'chat_template' %}".to_owned(),
        "{% macro f() %}{{ caller() }}{% endmacro %}{% macro g() %}{% call f() %}{{ g() }}{% endcall %}{% endmacro %}{{ g() }}".to_owned(),
        "{% for x in [[1]] recursive %}{{ loop([[1]]) }}{% endfor %}".to_owned(),
        // widths and repetition
        "{{ '{:>9999999999999}'.format('x') }}".to_owned(),
        "{{ '{:.9999999999}'.format(1.5) }}".to_owned(),
        "{{ '%9999999999d'|format(1) }}".to_owned(),
        "{{ 'a\nb'|indent(9223372036854775807) }}".to_owned(),
        "{{ messages|tojson(indent=9223372036854775807) }}".to_owned(),
        "{{ ('x' * 99999999) * 99999999 }}".to_owned(),
        "{{ ([0] * 99999999)|length }}{{ ([0] * 99999999) * 99 }}".to_owned(),
        "{{ (range(100000)|list)|join('x'*100000)|length }}".to_owned(),
        "{{ ('x' * 90000000).replace('x', 'y' * 90000000) }}".to_owned(),
        "{{ ('x' * 90000000)|list|length }}".to_owned(),
        "{{ ('a ' * 9000000).split(' ')|map('upper')|list|sort|unique|list|tojson|length }}".to_owned(),
        // doubling
        looped("{% set ns.x = ns.x ~ ns.x %}", 60, "x='xxxxxxxx'", "{{ ns.x|length }}"),
        looped("{% set ns.x = ns.x + ns.x %}", 60, "x=[1]", "{{ ns.x|length }}"),
        looped("{% set ns.x = [ns.x, ns.x] %}", 60, "x=1", "{{ ns.x }}"),
        looped("{% set ns.x = (ns.x, ns.x) %}", 60, "x=1", "{{ ns.x == ns.x }}{{ ns.x|string }}"),
        looped("{% set ns.x %}{{ ns.x }}{{ ns.x }}{% endset %}", 60, "x='xx'", "{{ ns.x }}"),
        looped("{% set ns.x = ns.x|replace('x', 'xx') %}", 60, "x='x'", "{{ ns.x }}"),
        // loops and output without end
        "{% for a in range(100000) %}{% for b in range(100000) %}{% for c in range(100000) %}{% endfor %}{% endfor %}{% endfor %}x".to_owned(),
        "{% for a in range(100000) %}{% for b in range(100000) %}xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx{% endfor %}{% endfor %}".to_owned(),
        "{% for a in range(100000) %}{{ ('x' * 90000000)|length }}{% endfor %}".to_owned(),
        "{% for a in range(100000) %}{{ range(100000)|sum }}{% endfor %}".to_owned(),
        "{{ range(9223372036854775807)|list }}".to_owned(),
        "{{ 9 ** 999999999 }}".to_owned(),
    ]
}

#[test]
fn no_template_ends_or_holds_the_program() {
    let templates = hostile();
    let check = |template: &String| {
        let start: String = template.chars().take(120).collect();
        let document = rendered(&hello(), template);
        // some come to an end within the limits, and print what they print
        let is_plain = document == plain("Hi there\n\nHello");
        assert!(is_plain || document.chat && document.text.len() < 1 << 20, "{start}: {} bytes", document.text.len());
    };
    std::thread::scope(|scope| {
        for half in templates.chunks(templates.len().div_ceil(2)) {
            scope.spawn(move || half.iter().for_each(check));
        }
    });
}

#[test]
fn interrupting_ends_a_template_at_once() {
    let template = "{% for a in range(100000) %}{% for b in range(100000) %}{% for c in range(100000) %}{% endfor %}{% endfor %}{% endfor %}";
    let asked = AtomicUsize::new(0);
    // before the template is sent, before the conversation, while waiting
    let check = || if asked.fetch_add(1, Ordering::Relaxed) > 1 { bail!("interrupted") } else { Ok(()) };
    let sandbox = Sandbox::new(setup(template), render_process, check);
    let error = documents("d.jsonl", hello().to_string(), &sandbox).unwrap_err();
    assert_eq!(error.to_string(), "interrupted");
}

fn folder(files: &[(&str, String)]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let tiny = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/tiny-llama");
    for name in ["tokenizer.json", "config.json"] {
        std::fs::copy(tiny.join(name), dir.path().join(name)).unwrap();
    }
    for (name, text) in files {
        let path = dir.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    dir
}

fn without_tools() -> String {
    hello().to_string()
}

fn with_tools() -> String {
    let mut line = hello();
    line["tools"] = json!([{"type": "function", "function": {"name": "f"}}]);
    line.to_string()
}

/// What conversations without and with tools become.
fn chosen(files: &[(&str, String)]) -> (String, String) {
    let template = ChatTemplate::new(&Tokenizer::from_hf(folder(files).path()).unwrap()).unwrap();
    let text = |line: String| documents("d.jsonl", line, &template).unwrap()[0].text.clone();
    (text(without_tools()), text(with_tools()))
}

#[test]
fn the_template_that_transformers_would_take_counts() {
    let config = |template: Json| ("tokenizer_config.json", json!({ "chat_template": template }).to_string());
    let file = ("chat_template.jinja", "file".to_owned());
    let tool_use = ("additional_chat_templates/tool_use.jinja", "\u{feff}tool file".to_owned());
    let list = json!([{"name": "default", "template": "list"}, {"name": "tool_use", "template": "tool list"}]);
    let both = |text: &str| (text.to_owned(), text.to_owned());
    let pair = |first: &str, second: &str| (first.to_owned(), second.to_owned());
    let legacy = ("chat_template.json", json!({"chat_template": "legacy"}).to_string());

    assert_eq!(chosen(&[config(Json::Null), file.clone()]), both("file"));
    assert_eq!(chosen(&[config("inline".into()), file.clone()]), both("file"));
    assert_eq!(chosen(&[config(list.clone()), file.clone()]), both("file"));
    assert_eq!(chosen(&[config("inline".into())]), both("inline"));
    assert_eq!(chosen(&[config(list)]), pair("list", "tool list"));
    assert_eq!(chosen(&[file, tool_use.clone()]), pair("file", "tool file"));
    assert_eq!(chosen(&[config("inline".into()), tool_use]), pair("inline", "tool file"));
    assert_eq!(chosen(std::slice::from_ref(&legacy)), both("legacy"));
    assert_eq!(chosen(&[config("inline".into()), legacy]), both("inline"));
}

/// The importance matrix of tiny-llama, trained for 16 tokens and with this template, and what is said on the way.
fn imatrix(template: Json) -> (Vec<u8>, String) {
    let dir = tempfile::tempdir().unwrap();
    let tiny = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/tiny-llama");
    for entry in std::fs::read_dir(&tiny).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, dir.path().join(path.file_name().unwrap())).unwrap();
    }
    let edit = |name: &str, key: &str, value: Json| {
        let path = dir.path().join(name);
        let mut json: Json = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        json[key] = value;
        std::fs::write(path, json.to_string()).unwrap();
    };
    edit("tokenizer_config.json", "chat_template", template);
    edit("config.json", "max_position_embeddings", 16.into());
    let lines = format!("{}\n", hello()).repeat(20);
    std::fs::write(dir.path().join("chats.jsonl"), lines).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_dq-gpu"))
        .current_dir(dir.path())
        .args(["imatrix", ".", "--calibration", "chats.jsonl", "--device", "cpu", "--ctx", "32", "-o", "out.dat"])
        .output()
        .unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{said}");
    (std::fs::read(dir.path().join("out.dat")).unwrap(), said)
}

#[test]
fn the_program_goes_on_without_a_template_and_says_so() {
    let (without, said) = imatrix(Json::Null);
    assert!(said.contains("chunks of 32 tokens") && said.contains("context of 16"), "{said}");
    assert!(!said.contains("template"), "{said}");
    let hostile = "{% set ns = namespace() %}{% set ns.ns = ns %}{{ ns }}";
    for (template, why) in [
        ("{% for m in messages %}{{ m.content }", "parse"),
        (hostile, "memory"),
        ("{{ raise_exception('no') }}", "rejects"),
    ] {
        let (plain, said) = imatrix(template.into());
        assert!(plain == without, "{template}");
        assert!(said.contains(why) && said.contains("read as plain text"), "{template}: {said}");
    }
}
