"""Former names of modules, classes and fields, so that existing files on disk stay readable.

Manifests name classes and their fields. Gin files and operative configurations name modules. `rebuild` in
pipelines/execution/job_config.py looks up classes and fields; tasks/configuration.py looks up the modules of gin's
import statements.

When a module moves, or a class or field is renamed, add a row from the former to the present name. Also change the rows
that led to the former name, so that one look-up always suffices. Names of the first layout have no prefix `castor.`,
because the rooms were top-level packages then. A name in these tables always means Castor's module, even if a user's
module has the same name.

Gin selectors are not listed here: a configurable keeps its selector through
`@gin.configurable("Run", module="train.loop")`. Renamed gin parameters are listed in PARAMETERS.
"""

CLASSES: dict[str, str] = {}
"""Renamed classes, and classes that left their module: full path to full path. Other classes follow their module."""

FIELDS: dict[str, dict[str, str]] = {
    f"castor.pipelines.{job}.Job": {"limits": "sandbox", "rules": "filters"} for job in ("image", "audio", "video")
} | {f"castor.pipelines.{job}.Job": {"limits": "sandbox"} for job in ("vocabulary", "tokenize", "quality_train")}
"""Renamed fields: the present full path of their class to {former name: present name}."""

PARAMETERS: dict[str, dict[str, str]] = {path.removeprefix("castor."): renamed for path, renamed in FIELDS.items()}
"""Renamed gin parameters: the complete selector of their configurable to {former name: present name}."""

MODULES = {
    "tasks.audio": "castor.tasks.vocabulary.audio",
    "tasks.batch_source": "castor.tasks.integrations.batch_source",
    "tasks.batches": "castor.tasks.batches.batches",
    "tasks.cache": "castor.tasks.cache.layout",
    "tasks.cache_reader": "castor.tasks.cache.reader",
    "tasks.cache_writer": "castor.tasks.cache.writer",
    "tasks.catalog": "castor.tasks.batches.catalog",
    "tasks.codecs": "castor.tasks.vocabulary.codecs",
    "tasks.component": "castor.tasks.batches.component",
    "tasks.configuration": "castor.tasks.configuration",
    "tasks.epochs": "castor.tasks.mixing.epochs",
    "tasks.errors": "castor.tasks.errors",
    "tasks.export": "castor.tasks.integrations.export",
    "tasks.fingerprint": "castor.tasks.fingerprint",
    "tasks.grain": "castor.tasks.integrations.grain",
    "tasks.hashing": "castor.tasks.hashing",
    "tasks.huggingface_tokenizer": "castor.tasks.integrations.huggingface_tokenizer",
    "tasks.image": "castor.tasks.vocabulary.image",
    "tasks.lineage": "castor.tasks.batches.lineage",
    "tasks.mixing": "castor.tasks.mixing.mixing",
    "tasks.packing": "castor.tasks.mixing.packing",
    "tasks.permutation": "castor.tasks.mixing.permutation",
    "tasks.plans": "castor.tasks.batches.plans",
    "tasks.preview": "castor.tasks.integrations.preview",
    "tasks.readahead": "castor.tasks.batches.read_ahead",
    "tasks.records": "castor.tasks.cache.records",
    "tasks.schedule": "castor.tasks.mixing.schedule",
    "tasks.sentencepieces": "castor.tasks.vocabulary.sentencepieces",
    "tasks.seqio_tasks": "castor.tasks.integrations.seqio_tasks",
    "tasks.seqio_vocabulary": "castor.tasks.integrations.seqio_vocabulary",
    "tasks.skips": "castor.tasks.batches.skips",
    "tasks.storage": "castor.tasks.storage.storage",
    "tasks.storage_gcs": "castor.tasks.storage.gcs",
    "tasks.storage_local": "castor.tasks.storage.local",
    "tasks.streams": "castor.tasks.vocabulary.streams",
    "tasks.t5x": "castor.tasks.integrations.t5x",
    "tasks.torch": "castor.tasks.integrations.torch",
    "tasks.verify": "castor.tasks.cache.verify",
    "tasks.vocabulary": "castor.tasks.vocabulary.vocabulary",
    "tasks.weights": "castor.tasks.mixing.weights",
    "pipelines.audio": "castor.pipelines.audio",
    "pipelines.benchmark_files": "castor.pipelines.decontamination.benchmark_files",
    "pipelines.benchmark_index": "castor.pipelines.decontamination.benchmark_index",
    "pipelines.cache_sink": "castor.pipelines.tokenization.cache_sink",
    "pipelines.card": "castor.pipelines.corpus.card",
    "pipelines.card_facts": "castor.pipelines.corpus.card_statistics",
    "pipelines.charset": "castor.pipelines.text.charset",
    "pipelines.code": "castor.pipelines.code",
    "pipelines.comments": "castor.pipelines.sourcecode.comments",
    "pipelines.components": "castor.pipelines.deduplication.connected_components",
    "pipelines.compressed": "castor.pipelines.readers.compressed",
    "pipelines.contamination": "castor.pipelines.decontamination.matching",
    "pipelines.contamination_report": "castor.pipelines.decontamination.report",
    "pipelines.corpus": "castor.pipelines.corpus.reader",
    "pipelines.dead_letters": "castor.pipelines.core.dead_letters",
    "pipelines.decontamination": "castor.pipelines.decontamination.decontaminate",
    "pipelines.deduplication": "castor.pipelines.deduplication.deduplicate",
    "pipelines.detached": "castor.pipelines.execution.detached",
    "pipelines.document": "castor.pipelines.document",
    "pipelines.duplicates": "castor.pipelines.deduplication.rules",
    "pipelines.duplicates_table": "castor.pipelines.deduplication.duplicates_table",
    "pipelines.examples": "castor.pipelines.tokenization.examples",
    "pipelines.explain": "castor.pipelines.execution.explain",
    "pipelines.fates": "castor.pipelines.corpus.outcomes",
    "pipelines.filters.bad_words": "castor.pipelines.filters.bad_words",
    "pipelines.filters.c4": "castor.pipelines.filters.c4",
    "pipelines.filters.c4_lines": "castor.pipelines.deduplication.shared_lines",
    "pipelines.filters.clip_quality": "castor.pipelines.filters.clip_quality",
    "pipelines.filters.datacomp_basic": "castor.pipelines.filters.datacomp_basic",
    "pipelines.filters.fineweb": "castor.pipelines.filters.fineweb",
    "pipelines.filters.generated": "castor.pipelines.filters.generated",
    "pipelines.filters.gopher_quality": "castor.pipelines.filters.gopher_quality",
    "pipelines.filters.gopher_repetition": "castor.pipelines.filters.gopher_repetition",
    "pipelines.filters.image_lists": "castor.pipelines.filters.image_lists",
    "pipelines.filters.length": "castor.pipelines.filters.length",
    "pipelines.filters.licence": "castor.pipelines.filters.licence",
    "pipelines.filters.obelics_image": "castor.pipelines.filters.obelics_image",
    "pipelines.filters.quality_model": "castor.pipelines.filters.quality_model",
    "pipelines.filters.reason": "castor.pipelines.filters.reason",
    "pipelines.filters.refinedweb": "castor.pipelines.filters.refinedweb",
    "pipelines.filters.robots": "castor.pipelines.filters.robots",
    "pipelines.filters.santacoder": "castor.pipelines.filters.santacoder",
    "pipelines.filters.sound_quality": "castor.pipelines.filters.sound_quality",
    "pipelines.filters.stack": "castor.pipelines.filters.stack",
    "pipelines.filters.still_image": "castor.pipelines.filters.still_image",
    "pipelines.filters.url_lists": "castor.pipelines.filters.url_lists",
    "pipelines.fitting": "castor.pipelines.tokenization.codec_fitting",
    "pipelines.functions": "castor.pipelines.core.functions",
    "pipelines.funnel": "castor.pipelines.core.funnel",
    "pipelines.html": "castor.pipelines.text.html",
    "pipelines.image": "castor.pipelines.image",
    "pipelines.imports": "castor.pipelines.sourcecode.imports",
    "pipelines.job": "castor.pipelines.execution.job",
    "pipelines.language": "castor.pipelines.text.language",
    "pipelines.language_scores": "castor.pipelines.text.language_scores",
    "pipelines.languages": "castor.pipelines.text.languages",
    "pipelines.licence_files": "castor.pipelines.sourcecode.licence_files",
    "pipelines.licence_headers": "castor.pipelines.sourcecode.licence_headers",
    "pipelines.licences": "castor.pipelines.sourcecode.licences",
    "pipelines.line_owners": "castor.pipelines.deduplication.line_owners",
    "pipelines.linear_model": "castor.pipelines.quality.linear_model",
    "pipelines.lists": "castor.pipelines.core.lists",
    "pipelines.logistic": "castor.pipelines.quality.logistic",
    "pipelines.maintext": "castor.pipelines.text.maintext.main_text",
    "pipelines.maintext.boilerplate": "castor.pipelines.text.maintext.boilerplate",
    "pipelines.maintext.choose": "castor.pipelines.text.maintext.choose",
    "pipelines.maintext.hints": "castor.pipelines.text.maintext.hints",
    "pipelines.maintext.phrases": "castor.pipelines.text.maintext.phrases",
    "pipelines.maintext.render": "castor.pipelines.text.maintext.render",
    "pipelines.maintext.stream": "castor.pipelines.text.maintext.stream",
    "pipelines.media.captions": "castor.pipelines.media.captions",
    "pipelines.media.clips": "castor.pipelines.media.clips",
    "pipelines.media.containers": "castor.pipelines.media.containers",
    "pipelines.media.fingerprints": "castor.pipelines.media.fingerprints",
    "pipelines.media.images": "castor.pipelines.media.images",
    "pipelines.media.measures": "castor.pipelines.media.measures",
    "pipelines.media.near_pictures": "castor.pipelines.deduplication.near_images",
    "pipelines.media.sounds": "castor.pipelines.media.sounds",
    "pipelines.media_job": "castor.pipelines.execution.media_job",
    "pipelines.minhash": "castor.pipelines.deduplication.minhash",
    "pipelines.notebooks": "castor.pipelines.sourcecode.notebooks",
    "pipelines.pages": "castor.pipelines.readers.web_source",
    "pipelines.pii": "castor.pipelines.text.pii",
    "pipelines.quality_report": "castor.pipelines.quality.report",
    "pipelines.quality_rows": "castor.pipelines.quality.training_rows",
    "pipelines.quality_train": "castor.pipelines.quality_train",
    "pipelines.replay": "castor.pipelines.execution.replay",
    "pipelines.repositories": "castor.pipelines.readers.repository_source",
    "pipelines.repository_documents": "castor.pipelines.sourcecode.repository_documents",
    "pipelines.repository_layout": "castor.pipelines.sourcecode.repository_layout",
    "pipelines.responses": "castor.pipelines.readers.responses",
    "pipelines.running": "castor.pipelines.execution.progress",
    "pipelines.samples": "castor.pipelines.readers.media_source",
    "pipelines.samplings": "castor.pipelines.tokenization.samples",
    "pipelines.sandbox": "castor.pipelines.core.sandbox",
    "pipelines.secrets": "castor.pipelines.sourcecode.secrets",
    "pipelines.sink": "castor.pipelines.corpus.sink",
    "pipelines.sourcecode": "castor.pipelines.sourcecode.parse",
    "pipelines.sources": "castor.pipelines.core.sources",
    "pipelines.stages": "castor.pipelines.core.stages",
    "pipelines.tars": "castor.pipelines.readers.tars",
    "pipelines.tokenize": "castor.pipelines.tokenize",
    "pipelines.video": "castor.pipelines.video",
    "pipelines.view": "castor.pipelines.text.tokenized_text",
    "pipelines.vocabulary": "castor.pipelines.vocabulary",
    "pipelines.warc": "castor.pipelines.readers.warc",
    "pipelines.web": "castor.pipelines.web",
    "train.aot": "castor.train.compiler.aot",
    "train.attention": "castor.train.model.attention.attention",
    "train.beginnings": "castor.train.checkpoints.initial_state",
    "train.blockwise": "castor.train.model.attention.blockwise",
    "train.checkpoints": "castor.train.checkpoints.checkpoints",
    "train.checksums": "castor.train.checkpoints.checksums",
    "train.chips": "castor.train.compiler.chips",
    "train.collectives": "castor.train.compiler.collectives",
    "train.context": "castor.train.model.attention.context",
    "train.decode": "castor.train.inference.decode",
    "train.evaluation": "castor.train.evaluation.evaluator",
    "train.grammar": "castor.train.inference.grammar",
    "train.hlo": "castor.train.compiler.hlo",
    "train.huggingface": "castor.train.huggingface.gemma",
    "train.inference": "castor.train.inference.inference",
    "train.interchange": "castor.train.huggingface.export_checkpoint",
    "train.kernels": "castor.train.compiler.kernels",
    "train.loop": "castor.train.run",
    "train.losses": "castor.train.model.losses",
    "train.metric_tasks": "castor.train.evaluation.metric_tasks",
    "train.metrics": "castor.train.metrics",
    "train.model": "castor.train.model.decoder",
    "train.optimizers": "castor.train.optimizers",
    "train.partitioning": "castor.train.partitioning",
    "train.placement": "castor.train.compiler.sharding_report",
    "train.plan": "castor.train.compiler.plan",
    "train.predict": "castor.train.compiler.predict",
    "train.questions": "castor.train.evaluation.multiple_choice",
    "train.reporter": "castor.train.reporter",
    "train.safetensors_files": "castor.train.huggingface.safetensors_files",
    "train.sampling": "castor.train.inference.sampling",
    "train.scoring": "castor.train.inference.scoring",
    "train.search": "castor.train.compiler.mesh_search",
    "train.splash": "castor.train.model.attention.splash",
    "train.step": "castor.train.step",
    "train.traffic": "castor.train.compiler.collective_traffic",
    "train.triton": "castor.train.model.attention.triton",
    "launch.command": "castor.launch.command",
    "launch.compile": "castor.launch.commands.compile",
    "launch.compile_page": "castor.launch.reports.compile_report",
    "launch.data": "castor.launch.commands.data",
    "launch.dataflow": "castor.launch.engines.dataflow",
    "launch.demo": "castor.launch.commands.demo",
    "launch.demo_corpus": "castor.launch.recipes.demo_corpus",
    "launch.engines.flink": "castor.launch.engines.flink",
    "launch.engines.gcs": "castor.launch.engines.gcs",
    "launch.engines.harness": "castor.launch.engines.harness",
    "launch.engines.packages": "castor.launch.engines.packages",
    "launch.engines.prism": "castor.launch.engines.prism",
    "launch.engines.processes": "castor.launch.engines.processes",
    "launch.evaluate": "castor.launch.commands.evaluate",
    "launch.explain": "castor.launch.commands.explain",
    "launch.explain_sharding": "castor.launch.commands.explain_sharding",
    "launch.export": "castor.launch.commands.export_huggingface",
    "launch.importing": "castor.launch.commands.import_huggingface",
    "launch.infer": "castor.launch.commands.infer",
    "launch.interactive": "castor.launch.inference.interactive",
    "launch.lineage": "castor.launch.commands.lineage",
    "launch.local": "castor.launch.engines.local_pod",
    "launch.pictures": "castor.launch.inference.pictures",
    "launch.plan": "castor.launch.commands.plan",
    "launch.prompts": "castor.launch.inference.prompts",
    "launch.recipes": "castor.launch.recipes.recipes",
    "launch.report": "castor.launch.reports.report",
    "launch.run": "castor.launch.commands.run",
    "launch.search": "castor.launch.commands.mesh_search",
    "launch.submit": "castor.launch.commands.launch",
    "launch.tasks": "castor.launch.commands.tasks",
    "launch.terminal": "castor.launch.terminal",
    "launch.train": "castor.launch.commands.train",
}
"""Moved modules: import name to import name."""


def module(name: str) -> str:
    """The present import name of a module, given a present or a former one."""
    return MODULES.get(name, name)


def class_path(path: str) -> str:
    """The present full path of a class, `module.Class`, given a present or a former one."""
    if path in CLASSES:
        return CLASSES[path]
    home, dot, name = path.rpartition(".")
    return f"{module(home)}{dot}{name}"


def field(present_class: str, name: str) -> str:
    """The present name of a field, present or former, of a class, given the class's present full path."""
    return FIELDS.get(present_class, {}).get(name, name)


def parameter(selector: str, name: str) -> str:
    """The present name of a parameter, present or former, of the configurable `selector` in a gin file.

    A selector without a dot is ambiguous: `Job` may be a user's configurable.
    """
    for complete, renamed in PARAMETERS.items():
        if "." in selector and f".{complete}".endswith(f".{selector}"):
            return renamed.get(name, name)
    return name
