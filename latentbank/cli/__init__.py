"""The command line: every command is a few calls of the library."""

from __future__ import annotations

import os
import sys
import traceback
from pathlib import Path
from typing import Annotated, Any, cast

import typer

from latentbank.cli.banks import (
    bank_delete,
    bank_drop_corpus,
    bank_info,
    bank_list,
    bank_token,
    bank_use,
    bank_verify,
)
from latentbank.cli.evaluate import evaluate_app
from latentbank.cli.experiment import experiment_app
from latentbank.cli.images import query_image, query_means, query_norms
from latentbank.cli.options import (
    BankOption,
    BatchOption,
    BosOption,
    CapOption,
    ColumnOption,
    Common,
    ConfigOption,
    DeviceOption,
    DtypeOption,
    EstimateOption,
    GpuPriceOption,
    GpusOption,
    GpuTflopsOption,
    IncompleteOption,
    JsonOption,
    LayersOption,
    LimitOption,
    MaxTokensOption,
    MetricOption,
    ModelOption,
    NameOption,
    NodeCoresOption,
    NodeDiskOption,
    NodePriceOption,
    NodeRamOption,
    PlanOption,
    RayOption,
    ReplaceOption,
    RevisionOption,
    ShardOption,
    SkipOption,
    SourcesArgument,
    SplitOption,
    TrustOption,
    WorkersOption,
    bank_layers_of,
    check_quantization,
    corpus_of,
    known_bank,
    load_llm,
    machines_of,
    numbers,
    only_bank,
    writer_settings,
)
from latentbank.cli.train import app as train_app
from latentbank.cli.transfer import bank_export, bank_import, bank_pull, bank_push, ingest_official
from latentbank.cli.view import view
from latentbank.errors import BankMismatch, LatentBankError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="What do a vision-language model's tokens mean? Fill banks of contexts, and read them.",
)
ingest_app = typer.Typer(no_args_is_help=True, help="Fill a bank from a corpus.")
bank_app = typer.Typer(no_args_is_help=True, help="Look after banks.")
query_app = typer.Typer(no_args_is_help=True, help="Read hidden states against a bank.")
app.add_typer(ingest_app, name="ingest")
app.add_typer(bank_app, name="bank")
app.add_typer(query_app, name="query")
app.add_typer(evaluate_app, name="evaluate")
app.add_typer(experiment_app, name="experiment")
app.add_typer(train_app, name="train")


@app.callback()
def _common(
    url: Annotated[str | None, typer.Option(help="URL of a Qdrant server; LATENTBANK_URL.")] = None,
    data_dir: Annotated[
        Path | None, typer.Option(help="Folder of embedded banks; LATENTBANK_DATA_DIR.")
    ] = None,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
) -> None:
    Common.url, Common.data_dir, Common.debug = url, data_dir, debug


@ingest_app.command(
    "plan", epilog="Example: latentbank ingest plan captions.txt --model HuggingFaceTB/SmolLM2-135M"
)
def ingest_plan(
    sources: SourcesArgument = None,
    bank: BankOption = None,
    model: ModelOption = None,
    layers: LayersOption = None,
    name: NameOption = None,
    plan: PlanOption = None,
    column: ColumnOption = None,
    config: ConfigOption = None,
    split: SplitOption = None,
    limit: LimitOption = None,
    bos: BosOption = "tokenizer",
    skip: SkipOption = 1,
    contexts_per_token: CapOption = 50,
    max_tokens: MaxTokensOption = 512,
    quantization: Annotated[str | None, typer.Option(help="int8, turbo or none.")] = None,
    calibrate: Annotated[
        bool, typer.Option(help="Estimate the time by running the LLM for a few seconds.")
    ] = True,
    estimate: EstimateOption = False,
    node_ram: NodeRamOption = None,
    node_disk: NodeDiskOption = None,
    node_cores: NodeCoresOption = None,
    node_price: NodePriceOption = None,
    gpus: GpusOption = None,
    gpu_tflops: GpuTflopsOption = None,
    gpu_price: GpuPriceOption = None,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
    revision: RevisionOption = None,
    trust_remote_code: TrustOption = False,
    as_json: JsonOption = False,
) -> None:
    """Plan an ingestion: what would be stored, how large it is and how long it takes. Stores nothing."""
    from latentbank.cli.output.tables import show_plan
    from latentbank.ingest import estimate as costs_of
    from latentbank.ingest.defaults import bank_name, default_layers, plan_folder
    from latentbank.ingest.plan import PlanSettings, make_plan
    from latentbank.progress import shown

    settings = Common.settings(quantization=quantization)
    machines = machines_of(
        settings, estimate, node_ram, node_disk, node_cores, node_price, gpus, gpu_tflops, gpu_price
    )
    choice = PlanSettings(cast("Any", bos), skip, contexts_per_token, max_tokens)
    corpus = corpus_of(sources, name, column, config, split, revision=None, limit=limit)
    known = known_bank(bank, model, settings)
    check_quantization(known, quantization)
    wanted = numbers(layers) or (list(known.layers) if known else None)
    chosen = model or (known.model if known else None)
    llm = load_llm(chosen, wanted, device, dtype, revision, trust_remote_code)
    wanted = wanted or default_layers(llm.num_layers)
    where = plan or plan_folder(
        settings, bank or settings.bank or (known.bank if known else bank_name(llm.name)), corpus.name
    )
    with shown("planning", "sentences") as progress:
        made = make_plan(corpus, llm, where, choice, progress)
    held = 0
    if known:  # a bank that is there keeps its quantization
        settings = Common.settings(quantization=known.quantization)
        held = sum(entry.contexts for entry in known.corpora.values() if entry.name != corpus.name)
    speed = costs_of.calibrate(made, llm, wanted, settings, held) if calibrate else None
    costs = costs_of.estimate(made, llm.hidden_size, wanted, settings, speed, held)
    cluster = costs_of.estimate_cluster(made, llm, wanted, settings, machines, held) if machines else None
    show_plan(made, costs, llm.packing, machines, cluster, as_json=as_json)


@ingest_app.command(
    "run", epilog="Example: latentbank ingest run captions.txt --model HuggingFaceTB/SmolLM2-135M"
)
def ingest_run(
    sources: SourcesArgument = None,
    bank: BankOption = None,
    model: ModelOption = None,
    layers: LayersOption = None,
    name: NameOption = None,
    plan: PlanOption = None,
    column: ColumnOption = None,
    config: ConfigOption = None,
    split: SplitOption = None,
    limit: LimitOption = None,
    bos: BosOption = "tokenizer",
    skip: SkipOption = 1,
    contexts_per_token: CapOption = 50,
    max_tokens: MaxTokensOption = 512,
    quantization: Annotated[str | None, typer.Option(help="int8, turbo or none; for a new bank.")] = None,
    metric: MetricOption = None,
    shard: ShardOption = None,
    ray: RayOption = None,
    workers: WorkersOption = None,
    replace: ReplaceOption = False,
    batch: BatchOption = None,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
    revision: RevisionOption = None,
    trust_remote_code: TrustOption = False,
    as_json: JsonOption = False,
) -> None:
    """Store a corpus's contexts in a bank, made if it is new. Run again, it continues where it stopped."""
    from latentbank.cli.output.tables import show_job
    from latentbank.ingest import job
    from latentbank.ingest.banks import create_bank
    from latentbank.ingest.defaults import bank_name, plan_folder
    from latentbank.ingest.plan import PlanSettings, load_plan
    from latentbank.ingest.workers.shares import parse_share
    from latentbank.progress import shown

    share = parse_share(shard) if shard else None
    if (share or ray) and (sources or not plan):
        raise LatentBankError(
            f"--{'shard' if share else 'ray'} takes a plan that is made already, the same for all workers: make it "
            "once with `latentbank ingest plan SOURCES --plan DIR`, then name only `--plan DIR`."
        )
    settings = writer_settings(quantization=quantization)
    choice = PlanSettings(cast("Any", bos), skip, contexts_per_token, max_tokens)
    made = load_plan(plan) if plan and not sources else None
    if plan and not sources and made is None:
        raise LatentBankError(f"There is no plan in {plan}; make one with `latentbank ingest plan`.")
    corpus = corpus_of(sources, name, column, config, split, None, limit) if made is None else None
    model = model or (made.model if made else None)
    known = known_bank(bank, model, settings)
    check_quantization(known, quantization)
    if known and metric not in (None, known.metric):
        raise BankMismatch(
            f"The bank '{known.bank}' was made with metric {known.metric}; leave --metric out or choose another "
            "bank name."
        )
    wanted = numbers(layers) or (list(known.layers) if known else None)
    if ray:
        from latentbank.bank.opening import pinned_name
        from latentbank.ingest.workers.ray_cluster import Fleet, run_on_ray

        if not wanted:
            raise LatentBankError("Name the layers of the new bank with --layers, such as 4,8,12,16.")
        assert plan is not None
        assert model is not None
        target = bank or settings.bank or (known.bank if known else bank_name(model))
        fleet = Fleet(
            bank=pinned_name(target, settings),
            settings=settings,
            plan=plan.absolute(),
            model=model,
            layers=tuple(wanted),
            metric=cast("Any", metric),
            dtype=dtype,
            revision=revision,
            trust_remote_code=trust_remote_code,
            batch=batch,
            replacing=replace,
        )
        with shown("ingesting", "shares") as progress:
            together = run_on_ray(fleet, ray, workers, progress)
        show_job(together, target, fleet.layers, as_json=as_json)
        return
    chosen = model or (known.model if known else None)
    llm = load_llm(chosen, wanted, device, dtype, revision, trust_remote_code)
    with create_bank(
        bank or settings.bank or (known.bank if known else bank_name(llm.name)),
        llm,
        wanted,
        metric=cast("Any", metric),
        settings=settings,
    ) as opened:
        print(f"{llm.packing} on {llm.device}, {str(llm.dtype).removeprefix('torch.')}", file=sys.stderr)
        if made is None:
            assert corpus is not None
            where = plan or plan_folder(settings, opened.name, corpus.name)
            with shown("planning", "sentences") as progress:
                made = job.plan_for(opened, corpus, llm, where, choice, progress, replacing=replace)
        with shown("ingesting", "contexts") as progress:
            report = job.store_plan(opened, made, llm, progress, batch=batch, share=share, replacing=replace)
        show_job(report, opened.name, opened.layers, as_json=as_json)


@ingest_app.command("status", epilog="Example: latentbank ingest status --bank SmolLM2-135M")
def ingest_status(bank: BankOption = None, as_json: JsonOption = False) -> None:
    """Show how far each corpus's ingestion is, and each worker's share of it."""
    from latentbank.bank.opening import open_bank
    from latentbank.cli.output.tables import show_status
    from latentbank.ingest.workers.shares import share_states

    settings = Common.settings()
    with open_bank(only_bank(bank, settings), settings) as opened:
        store = opened.store
        rows = [
            (
                entry,
                min(opened.held(entry.stored)),
                [] if entry.complete else share_states(store.read_shares(entry.stored)),
            )
            for entry in opened.corpora.values()
        ]
        show_status(opened.name, rows, as_json=as_json)


bank_app.command("list", epilog="Example: latentbank bank list")(bank_list)
bank_app.command("info", epilog="Example: latentbank bank info SmolLM2-135M")(bank_info)
bank_app.command("verify", epilog="Example: latentbank bank verify SmolLM2-135M")(bank_verify)
bank_app.command("use", epilog="Example: latentbank bank use SmolLM2-135M@2")(bank_use)
bank_app.command("drop-corpus", epilog="Example: latentbank bank drop-corpus SmolLM2-135M captions")(
    bank_drop_corpus
)
bank_app.command("delete", epilog="Example: latentbank bank delete SmolLM2-135M --yes")(bank_delete)
bank_app.command(
    "token",
    epilog="Example: latentbank bank token --read --expires 30d --banks SmolLM2-135M --layers 4,8,12,16",
)(bank_token)
ingest_app.command(
    "official", epilog="Example: latentbank ingest official cache --model meta-llama/Meta-Llama-3-8B"
)(ingest_official)
bank_app.command("export", epilog="Example: latentbank bank export SmolLM2-135M export")(bank_export)
bank_app.command("import", epilog="Example: latentbank bank import export --name SmolLM2-135M")(bank_import)
bank_app.command(
    "pull", epilog="Example: latentbank --url https://qdrant.example.org:6333 bank pull SmolLM2-135M"
)(bank_pull)
bank_app.command(
    "push", epilog="Example: latentbank --url https://qdrant.example.org:6333 bank push SmolLM2-135M"
)(bank_push)


@query_app.command(
    "text", epilog="Example: latentbank query text 'The dog chased a cat.' --token dog --top-k 3"
)
def query_text(
    sentence: Annotated[str, typer.Argument()],
    bank: BankOption = None,
    model: ModelOption = None,
    token: Annotated[str | None, typer.Option(help="Read only this word or token.")] = None,
    layer: Annotated[
        str | None, typer.Option("--layer", help="Layers the sentence is read at, such as 8,12.")
    ] = None,
    bank_layers: Annotated[str, typer.Option(help="mid, all, or numbers such as 8,12.")] = "mid",
    top_k: Annotated[int, typer.Option("--top-k", "-k", help="Neighbors per token.")] = 5,
    where: Annotated[
        list[str] | None, typer.Option(help="Filter, such as word=dog|cat or corpus!=news; all must hold.")
    ] = None,
    unique: Annotated[str | None, typer.Option(help="One neighbor per context or per word.")] = None,
    exact: Annotated[
        bool, typer.Option("--exact", help="Compare with every context in full precision.")
    ] = False,
    include_incomplete: IncompleteOption = False,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
    revision: RevisionOption = None,
    trust_remote_code: TrustOption = False,
    as_json: JsonOption = False,
) -> None:
    """Read the tokens of a sentence against a bank."""
    from latentbank.bank.opening import open_bank
    from latentbank.bank.where import parse_where
    from latentbank.cli.output.tables import show_reading
    from latentbank.query.reading.reading import read_text

    settings = Common.settings()
    chosen = numbers(layer)
    condition = parse_where(where or [])
    name = only_bank(bank, settings)
    with open_bank(name, settings, include_incomplete=include_incomplete) as opened:
        deepest = chosen or opened.layers
        llm = load_llm(
            model or opened.manifest.model,
            deepest,
            device,
            dtype,
            revision or (None if model else opened.manifest.revision),
            trust_remote_code,
        )
        reading = read_text(
            opened,
            llm,
            sentence,
            chosen,
            token=token,
            bank_layers=bank_layers_of(bank_layers),
            top_k=top_k,
            where=condition,
            unique=cast("Any", unique),
            exact=exact,
        )
    show_reading(reading, as_json=as_json)


query_app.command(
    "image", epilog="Example: latentbank query image 'photos/*.jpg' --model demo --visual-layers 0,4,8,16"
)(query_image)
query_app.command("means", epilog="Example: latentbank query means photos --model demo -o means.safetensors")(
    query_means
)
query_app.command("norms", epilog="Example: latentbank query norms photos --model llava-hf/llava-1.5-7b-hf")(
    query_norms
)
app.command("view", epilog="Example: latentbank view --model demo")(view)


def main() -> None:
    """Run the command line: one line and exit code 2 for what the user can mend."""
    # Both are read when torch and tqdm are imported, which no command has done yet.
    os.environ.setdefault(
        "OMP_WAIT_POLICY", "PASSIVE"
    )  # the writer needs the cores on which waiting threads spin
    if not sys.stderr.isatty():
        os.environ.setdefault("TQDM_DISABLE", "1")  # libraries draw their bars into pipes and files too
    try:
        app()
    except LatentBankError as error:
        if Common.debug:
            traceback.print_exc()
        print(f"latentbank: {error}", file=sys.stderr)
        sys.exit(2)
    except SystemExit as done:
        if done.code == 130:  # typer's way of saying Ctrl-C
            print(
                "latentbank: stopped; what was stored is safe, the same command continues.", file=sys.stderr
            )
        raise
