"""The keys of a yaml that every training script reads; imports no torch.

A script's ``--help`` lists them before anything heavy is imported.
"""

from hamsb.utils.keys import Key

#: What every training script reads.
KEYS = [
    Key("seed", "whole number", "of everything that is drawn"),
    Key("output_folder", "folder", "everything of the run"),
    Key("save_folder", "folder", "checkpoints and the csv files of the preparation"),
    Key("data_folder", "data or list", "training: folder, csv, JSON lines, Kaldi"),
    Key("test_data_folder", "data or list", "of the trials, if another", optional=True),
    Key("verification_file", "file or list", "trials: label enrol test; null: none"),
    Key("train_annotation", "file", "csv of the training utterances, from the preparation"),
    Key(
        "dev_speakers",
        "whole number",
        "held out of training; their trials choose the model",
    ),
    Key("dev_trials", "count", "of each kind, at most"),
    Key("min_duration", "seconds", "shorter utterances are left out"),
    Key("baselines", "boolean", "verify the network before training and mean log-mels"),
    Key("batch_size", "count", "utterances of a batch, of each process"),
    Key("sentence_len", "seconds", "of a random crop"),
    Key("dataloader_options", "mapping", "batch_size or batch_sampler, num_workers, ..."),
    Key("lr_annealing", "object", "the learning rate, by epoch or by batch"),
    Key("opt_class", "object", "the optimizer, of parameters"),
    Key("avg_checkpoints", "count", "epochs whose weights are averaged"),
    Key("average_by", "last or best", "the last epochs, or the best by development EER"),
    Key("sample_rate", "Hz", "of all audio"),
    Key("embedding_model", "object", "features -> embedding; averaged and exported"),
    Key("compute_cost", "object", "the loss"),
    Key("modules", "mapping", "what is moved to the device and trained"),
    Key("epoch_counter", "object", "counts the epochs, to its limit"),
    Key("train_logger", "object", "a line an epoch; hamsb.TensorBoardLogger: curves too"),
    Key("checkpointer", "object", "saves and recovers what training changes"),
    Key("pretrained_model", "folder or name", "begin with its weights", optional=True),
    Key("global_batch_size", "count", "of all processes; sets batch_size", optional=True),
    Key("sync_batch_norm", "boolean", "normalize over all processes", optional=True),
    Key("merge_speakers", "boolean", "of one name in two data folders", optional=True),
    Key(
        "prefix_speakers", "boolean", "names begin with their data folder's", optional=True
    ),
    Key("mini_corpus", "mapping", "synthetic, made on the first run", optional=True),
    Key("distortions", "mapping", "simulated noises and rooms, made then", optional=True),
    Key("prepare_noise_data", "function", "lists noises before training", optional=True),
    Key("prepare_rir_data", "function", "lists room responses, too", optional=True),
    Key("wav_augment", "object", "augmentation of the audio", optional=True),
    Key("fea_augment", "object", "augmentation of the features", optional=True),
    Key("batches_per_epoch", "number", "replaced by the number of batches", optional=True),
    Key("steps_per_epoch", "number", "replaced by that of optimizer steps", optional=True),
    Key("processes", "number", "replaced by the number of processes", optional=True),
    Key("out_n_neurons", "number", "replaced by the number of speakers", optional=True),
    Key("speeds", "list of percent", "of speed_perturb; they make speakers", optional=True),
    Key("margin_schedule", "object", "sets the loss's margin", optional=True),
    Key("no_weight_decay", "list", "modules whose parameters have none", optional=True),
    Key("card", "mapping", "of the model card: language, license, ...", optional=True),
]

#: Those that a preparation is called with.
PREPARED = (
    "data_folder",
    "save_folder",
    "verification_file",
    "dev_speakers",
    "dev_trials",
    "min_duration",
    "sample_rate",
)

#: And with these, where the yaml has them.
PREPARED_OPTIONALLY = ("merge_speakers", "prefix_speakers", "test_data_folder")
