#!/usr/bin/env python3
"""Brings the public corpora of VILA into the forms that `vila data ingest` reads: docs/guide/data.md says when to use what.

    corpora.py mmc4  docs_shard_0_v3.jsonl.zip ... --out DIR     fetches images; documents whose images all came
    corpora.py coyo  part-00000.parquet ...        --out DIR     fetches images of the best pairs of each part
    corpora.py m3it  TASK.jsonl ...                --out DIR     writes images, and questions as conversations
    corpora.py flan  FOLDER                        --out DIR     evenly spaced samples of Open-Orca/FLAN, as conversations

Needs nothing beyond Python, but pyarrow for parquet files, and Pillow for --shorter-side. The same command continues after a
stop: images that are there are not fetched again, and an output file gets its name when it is complete.
"""

import argparse
import base64
import concurrent.futures
import gzip
import hashlib
import io
import json
import pathlib
import sys
import threading
import urllib.parse
import urllib.request
import zipfile

# The paper's limits, as the authors' scripts have them.
MMC4_IMAGES = 6
COYO_SIMILARITY = 0.6
COYO_SHARE = 0.2
FLAN_SAMPLES = 1_000_000


class Unreadable(str):
    """Takes the place of a record that cannot be read, and says why."""


def lines(path):
    """The records of a JSON lines file, which may lie in a zip archive or be packed with gzip."""
    if path.suffix == ".zip":
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                if not name.endswith("/"):
                    with archive.open(name) as member:
                        yield from records(member)
    elif path.suffix == ".parquet":
        yield from rows(path)
    else:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            yield from records(file)


def records(file):
    """The records of a binary stream of lines; one that is no JSON leaves the others alone."""
    for number, line in enumerate(file, 1):
        try:
            text = line.decode("utf-8-sig" if number == 1 else "utf-8").strip()
            if text:
                yield json.loads(text)
        except ValueError as error:
            yield Unreadable(f"line {number}: {error}")


def parquet(path):
    try:
        import pyarrow.parquet
    except ImportError:
        sys.exit(f"{path}: parquet files need the Python package pyarrow")
    return pyarrow.parquet.ParquetFile(path)


def rows(path, columns=None):
    for batch in parquet(path).iter_batches(columns=columns):
        yield from batch.to_pylist()


class Output:
    """A file of JSON lines that has its name only when it is whole."""

    def __init__(self, path):
        self.path, self.partial, self.count = path, path.with_name(f".partial-{path.name}"), 0

    def __enter__(self):
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.file = self.partial.open("w", encoding="utf-8")
        return self

    def write(self, record):
        # Half a surrogate has no place in UTF-8.
        text = json.dumps(record, ensure_ascii=False).encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        self.file.write(text + "\n")
        self.count += 1

    def __exit__(self, failed, *_):
        self.file.close()
        if not failed:
            self.partial.replace(self.path)


def smaller(content, side):
    """The image with its shorter side cut to `side` pixels, as the authors store theirs."""
    try:
        from PIL import Image
    except ImportError:
        sys.exit("--shorter-side needs the Python package Pillow")
    image = Image.open(io.BytesIO(content)).convert("RGB")
    if min(image.size) > side:
        scale = side / min(image.size)
        image = image.resize([max(side, int(length * scale)) for length in image.size])
    out = io.BytesIO()
    image.save(out, "JPEG")
    return out.getvalue()


def link(url):
    """The URL with blanks and other characters encoded as servers expect them; what is encoded already stays."""
    parts = urllib.parse.urlsplit(url.strip())
    host = parts.netloc if parts.netloc.isascii() else parts.netloc.encode("idna").decode()
    quoted = [urllib.parse.quote(part, safe="%/:=&?~#+!$,;'@()*[]") for part in (parts.path, parts.query)]
    return urllib.parse.urlunsplit((parts.scheme, host, *quoted, ""))


def fetched(url, path, options):
    """Whether the image is there now."""
    if path.exists():
        return True
    try:
        request = urllib.request.Request(link(url), headers={"User-Agent": "Mozilla/5.0"})
        with urllib.request.urlopen(request, timeout=options.timeout) as answer:
            content = answer.read()
        if not content:
            return False
        if options.shorter_side:
            content = smaller(content, options.shorter_side)
    # The web answers with whatever it likes; `vila data ingest --on-error skip` passes over what is no image.
    except Exception:
        return False
    store(path, content)
    return True


def image_name(key):
    """A name made of a hash, in one of 256 folders."""
    name = hashlib.sha256(key).hexdigest()[:24]
    return f"{name[:2]}/{name}"


def store(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    # Several documents may have the same image, and come at the same time.
    partial = path.with_name(f".partial-{path.name}-{threading.get_ident()}")
    partial.write_bytes(content)
    partial.replace(path)


def side_by_side(records, work, options):
    """The results of `work` in the order of the records, a bounded number of them under way."""

    def attempt(record):
        if isinstance(record, Unreadable):
            return record
        try:
            return work(record)
        # One record of millions that lacks a field, or has another type, must not end the run.
        except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
            return Unreadable(f"{type(error).__name__}: {error} in {str(record)[:80]}")

    with concurrent.futures.ThreadPoolExecutor(options.connections) as pool:
        waiting = []
        for record in records:
            waiting.append(pool.submit(attempt, record))
            if len(waiting) >= 4 * options.connections:
                yield waiting.pop(0).result()
        yield from (future.result() for future in waiting)


FIELDS = ("image_name", "raw_url", "matched_text_index")


def mmc4(options):
    def bring(image):
        """Gives an image its name; whether it is there now. Some releases have the images in the records."""
        if image.get("image_base64"):
            content = base64.b64decode(image["image_base64"])
            image["image_name"] = image_name(content)
            path = options.out / "images" / image["image_name"]
            if not path.exists():
                try:
                    content = smaller(content, options.shorter_side) if options.shorter_side else content
                # As for fetched images: what is no image is found when it is ingested, or here.
                except Exception:
                    return False
                store(path, content)
            return True
        image["image_name"] = image_name(image["raw_url"].encode("utf-8", "surrogatepass"))
        return fetched(image["raw_url"], options.out / "images" / image["image_name"], options)

    def document(record):
        images = (record.get("image_info") or [])[: options.images or None]
        came = [bring(image) for image in images]
        # Sentences and their images as published; similarities are as large as the text, and nothing reads them.
        kept = [{key: image[key] for key in FIELDS if key in image} for image in images]
        return {"text_list": record["text_list"], "image_info": kept} if images and all(came) else None

    for path in options.input:
        convert(path, document, options)


def coyo(options):
    def pair(record):
        name = f"{int(record['id']) % 1000:03}/{record['id']}"
        if not fetched(record["url"], options.out / "images" / name, options):
            return None
        return {"id": record["id"], "image": name, "text": record["text"], "clip_sim": record["clip_sim"]}

    for path in options.input:
        convert(path, pair, options, best_pairs)


def best_pairs(path):
    columns = ["id", "url", "text", "clip_similarity_vitb32", "clip_similarity_vitl14"]
    records = list(rows(path, columns))
    for record in records:
        # A row without similarities is no good pair.
        record["clip_sim"] = (record["clip_similarity_vitb32"] or 0) + (record["clip_similarity_vitl14"] or 0)
    good = sorted((r for r in records if r["clip_sim"] > COYO_SIMILARITY), key=lambda r: -r["clip_sim"])
    return good[: int(len(records) * COYO_SHARE)]


def m3it(options):
    def conversation(record):
        images = record.get("image_base64_str") or []
        names = []
        for image in [images] if isinstance(images, str) else images:
            content = base64.b64decode(image)
            names.append(image_name(content))
            if not (options.out / "images" / names[-1]).exists():
                store(options.out / "images" / names[-1], content)
        turns = turns_of(record["instruction"] + record["inputs"], record["outputs"])
        turns[0]["value"] = "<image>\n" * len(names) + turns[0]["value"]
        return {**({"image": names} if names else {}), "conversations": turns}

    for path in options.input:
        convert(path, conversation, options)


def turns_of(question, answer):
    """One exchange; Visual Dialog's history, which its questions quote, becomes turns again."""
    question, answer = question.replace("<image>", "").rstrip().removesuffix("\nAnswer:"), answer.rstrip()
    exchanges = [(question, answer)]
    if "Image Descriptions" in question:
        asked = [turn.split("\nAnswer: ") for turn in question.split("\nQuestion: ")[1:]]
        if asked and all(len(turn) == 2 for turn in asked[:-1]) and len(asked[-1]) in (1, 2):
            exchanges = [tuple(turn) for turn in asked[:-1]] + [(asked[-1][0], answer)]
    return [
        {"from": role, "value": text.strip("\n")}
        for exchange in exchanges
        for role, text in zip(("human", "gpt"), exchange)
    ]


def flan(options):
    if len(options.input) > 1:
        sys.exit("flan takes one folder, that of Open-Orca/FLAN")
    folder = options.input[0]
    parts = sorted(folder.glob("*_data/*.parquet"))
    if not parts:
        sys.exit(f"{folder}: has no *_data/*.parquet; name the folder of Open-Orca/FLAN")
    counts = [parquet(part).metadata.num_rows for part in parts]
    total, samples = sum(counts), min(options.samples, sum(counts))
    wanted = iter([index * (total - 1) // max(1, samples - 1) for index in range(samples)])
    want, start = next(wanted, None), 0
    with Output(options.out / "conversations.jsonl") as out:
        for part, count in zip(parts, counts):
            if want is not None and want < start + count:
                for index, record in enumerate(rows(part, ["inputs", "targets"]), start):
                    if index == want:
                        try:
                            out.write({"conversations": turns_of(record["inputs"], record["targets"])})
                        except (AttributeError, TypeError) as error:
                            print(f"{part}: row {index - start}: passed over: {error}", file=sys.stderr)
                        want = next(wanted, None)
            start += count
        print(f"{folder}: {out.count} of {total} samples")


def target(path, options):
    """Named after the input, with its folder before it where several inputs have the same name."""
    stem = lambda path: path.name.removesuffix(".zip").removesuffix(".gz").removesuffix(".jsonl").removesuffix(".parquet")
    alone = sum(stem(other) == stem(path) for other in options.input) == 1
    return options.out / (f"{stem(path)}.jsonl" if alone else f"{path.resolve().parent.name}-{stem(path)}.jsonl")


def convert(path, work, options, read_records=lines):
    if target(path, options).exists():
        print(f"{path}: done before")
        return
    read, unreadable = 0, []
    with Output(target(path, options)) as out:
        for result in side_by_side(read_records(path), work, options):
            read += 1
            if isinstance(result, Unreadable):
                unreadable.append(result)
            elif result is not None:
                out.write(result)
    for problem in unreadable[:5]:
        print(f"{path}: passed over: {problem}", file=sys.stderr)
    print(f"{path}: {out.count} of {read} records" + (f"; {len(unreadable)} could not be read" if unreadable else ""))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", choices=["mmc4", "coyo", "m3it", "flan"])
    parser.add_argument("input", nargs="+", type=pathlib.Path)
    parser.add_argument("--out", required=True, type=pathlib.Path)
    parser.add_argument("--images", type=int, default=MMC4_IMAGES, help="images of an MMC4 document, 0 for all (6)")
    parser.add_argument("--samples", type=int, default=FLAN_SAMPLES, help="samples of FLAN (1,000,000)")
    parser.add_argument("--shorter-side", type=int, default=0, help="pixels that the shorter side of fetched images is cut to")
    parser.add_argument("--connections", type=int, default=64, help="images fetched at the same time (64)")
    parser.add_argument("--timeout", type=float, default=10, help="seconds until an image is given up (10)")
    options = parser.parse_args()
    targets = [target(path, options) for path in options.input]
    for path, name in zip(options.input, targets):
        if not path.exists():
            sys.exit(f"{path}: is not there")
        if targets.count(name) > 1:
            sys.exit(f"{path}: another input would be written to {name}, too; convert them one by one, each with its own --out")
    {"mmc4": mmc4, "coyo": coyo, "m3it": m3it, "flan": flan}[options.corpus](options)


main()
