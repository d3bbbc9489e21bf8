"""SpeechBrain's run options: which ones mean something to which scripts.

Imports neither torch nor SpeechBrain, so that ``--help`` need not.
"""

#: Those of a script that uses a model.
ANALYSIS = {
    "device": "cpu, cuda:0, ...; by default the first accelerator, else the CPU",
    "noprogressbar": "no progress bars",
}

#: Those of a script that trains one.
TRAINING = {
    **ANALYSIS,
    "precision": "of training: fp32, bf16, or on an accelerator fp16",
    "eval_precision": "of embeddings: fp32, bf16, or on an accelerator fp16",
    "grad_accumulation_factor": "batches whose gradients make one step",
    "max_grad_norm": "longer gradients are shortened to it; inf: none is",
    "skip_nonfinite_grads": "leave out gradients that are inf or nan",
    "nonfinite_patience": "batches of an epoch whose loss may be inf or nan",
    "remove_vector_weight_decay": "no weight decay of biases and norms",
    "ckpt_interval_minutes": "save within epochs, after so many minutes; 0: do not",
    "ckpt_interval_steps": "save within epochs, after so many batches; 0: do not",
    "compile": "compile the modules with torch.compile",
    "compile_module_keys": "with --compile: only these modules",
    "compile_mode": "with --compile: default, reduce-overhead or max-autotune",
    "compile_using_fullgraph": "with --compile: each module as one graph",
    "compile_using_dynamic_shape_tracing": "with --compile: for varying shapes",
    "distributed_backend": "with torchrun: nccl, gloo or mpi",
    "find_unused_parameters": "with torchrun: some parameters get no gradient",
    "debug": "train a few batches of a few epochs, to see whether all works",
    "debug_batches": "with --debug: batches of an epoch",
    "debug_epochs": "with --debug: epochs; 0: all",
    "debug_persistently": "with --debug: keep the checkpoints",
    "profile_training": "profile the first batches and stop, without a model",
    "profile_warmup": "with --profile_training: batches before the profile",
    "profile_steps": "with --profile_training: batches of the profile",
    "log_config": "yaml file of Python's logging, in the place of SpeechBrain's",
    "tqdm_colored_bar": "a colored progress bar",
    "auto_mix_prec": "SpeechBrain's old name of --precision=fp16",
    "bfloat16_mix_prec": "SpeechBrain's old name of --precision=bf16",
}

#: Those that no script can take, and what to do.
REFUSED = {
    "data_parallel_backend": (
        "splits a batch among GPUs within one process, which the losses here do not "
        "support. Start one process a GPU: torchrun --nproc_per_node=<GPUs> <script> ..."
    ),
    "jit": "TorchScript does not compile these networks. Use --compile.",
    "jit_module_keys": (
        "TorchScript does not compile these networks. Use --compile with "
        "--compile_module_keys."
    ),
    "optimizer_step_limit": (
        "would end the training within the schedules of rate and margin. Give "
        "--number_of_epochs, which they end with."
    ),
    "test_only": (
        "a finished run is not trained again, and verify.py scores its export. Leave it "
        "out."
    ),
}

#: Those that do nothing without another one.
NEEDS = {
    "debug": ("debug_batches", "debug_epochs", "debug_persistently"),
    "compile": (
        "compile_module_keys",
        "compile_mode",
        "compile_using_fullgraph",
        "compile_using_dynamic_shape_tracing",
    ),
    "profile_training": ("profile_warmup", "profile_steps"),
}

#: The least value of those that are numbers.
LEAST = {
    "grad_accumulation_factor": 1,
    "nonfinite_patience": 0,
    "debug_batches": 1,
    "profile_warmup": 0,
    "profile_steps": 1,
}
