"""What people type for a setting: names of other tools and short forms, beside the names that tapertune has.

Each line of ``_GROUPS``, with the indented ones below it, holds names of one thing: first those that settings, options
and columns really have, then what else is typed for it. A name with a dot is that of one block alone. Standard library
only.
"""

from __future__ import annotations

import difflib
import functools
from collections.abc import Iterable

_GROUPS = """
learning_rate lr rate learningrate learning_rates step_size eta base_lr max_lr peak_lr initial_lr init_lr
num_train_epochs epochs epoch num_epochs n_epochs nb_epochs max_epochs train_epochs total_epochs num_epoch numepochs
max_steps steps num_steps n_steps total_steps train_steps num_train_steps max_train_steps training_steps iterations
    iters max_iters num_iterations num_updates max_updates
per_device_train_batch_size batch_size batch bs batchsize train_batch_size train_bs per_gpu_train_batch_size
    per_device_batch_size micro_batch_size mini_batch_size minibatch_size train_batch
per_device_eval_batch_size batch_size eval_batch_size eval_bs test_batch_size valid_batch_size validation_batch_size
    per_gpu_eval_batch_size dev_batch_size eval_batch
gradient_accumulation_steps grad_accum gradient_accumulation accumulation accumulation_steps grad_accumulation
    grad_acc grad_accum_steps accum_steps accumulate_grad_batches grad_acc_steps accum
warmup_steps warmup warmup_ratio num_warmup_steps warm_up warm_up_steps lr_warmup warmup_proportion warmup_fraction
    warmup_epochs lr_warmup_steps
weight_decay wd decay l2 l2_penalty weightdecay
max_grad_norm clip grad_clip gradient_clipping clip_grad clip_grad_norm max_norm grad_norm gradient_clip_val clipping
    gradient_clip clip_norm
lr_scheduler_type lr_scheduler scheduler scheduler_type lr_schedule schedule_type lr_decay lr_decay_style
optim optimizer optimizer_name optimiser optim_type optimizer_type
adam_beta1 beta1
adam_beta2 beta2
adam_epsilon eps epsilon adam_eps
label_smoothing_factor label_smoothing smoothing
eval_strategy evaluation_strategy eval_mode evaluation evaluate_during_training
eval_steps eval_every evaluate_every eval_interval eval_freq evaluation_steps val_every valid_every eval_frequency
    validation_steps val_check_interval
save_strategy checkpoint_strategy saving_strategy
save_steps save_every checkpoint_every save_interval save_freq checkpoint_steps checkpointing_steps
    checkpoint_interval
save_total_limit keep_checkpoints max_checkpoints keep_last save_limit checkpoints_total_limit save_top_k
logging_steps log_every log_steps log_interval logging_interval logging_freq log_freq print_every log_every_n_steps
metric_for_best_model metric best_metric monitor early_stopping_metric metric_for_best
load_best_model_at_end load_best load_best_model keep_best
dataloader_num_workers workers num_workers n_workers num_proc loader_workers
train_sampling_strategy group_by_length sampler sampling
gradient_checkpointing checkpointing grad_checkpointing activation_checkpointing use_gradient_checkpointing
bf16 bfloat16 mixed_precision amp use_bf16
fp16 half float16 use_fp16
use_cpu no_cuda cpu device
report_to tracker tracking wandb use_wandb log_with loggers
torch_compile compile use_compile
early_stopping.patience patience early_stopping_patience early_stop_patience early_stop es_patience stop_patience
    early_stopping_rounds
early_stopping.threshold threshold early_stopping_threshold min_delta early_stopping_min_delta early_stopping_delta
r init_r rank lora_r lora_rank lora_dim dim init_rank initial_rank adapter_rank ranks low_rank rank_dim n_rank
    bottleneck
target_r target_rank final_rank final_r end_rank
lora_alpha alpha scaling scale lora_scale lora_scaling scaling_factor lora_alpha_value
dropout lora_dropout vera_dropout adapter_dropout drop dropout_rate dropout_p dropout_prob drop_rate p_dropout
    lora_drop
head.dropout classifier_dropout head_dropout cls_dropout
head.learning_rate head_lr classifier_lr head_learning_rate classifier_learning_rate
head.weight_decay head_wd classifier_weight_decay head_weight_decay
target_modules modules targets target lora_target lora_targets lora_target_modules lora_modules target_layers module
    layers adapt target_module
exclude_modules exclude exclude_targets skip_modules ignore_modules
modules_to_save train_whole extra_modules save_modules additional_target
layers_to_transform layer_indices layer_ids only_layers
train_layers top_layers num_train_layers trainable_layers
init_weights init_lora_weights init_vera_weights initialisation initialization
factor_rates loraplus lora_plus loraplus_lr_ratio lr_ratio lora_plus_ratio loraplus_ratio
orth_reg_weight orth_weight orthogonality reg_orth orth_lambda
tinit t_init init_steps
tfinal t_final final_steps
deltat delta_t update_interval mask_interval
warmup warmup_steps warm_up tinit t_init initial_warmup
cooldown final tfinal t_final final_warmup cool_down final_steps
every interval deltat delta_t period frequency freq
kind type name
max_length max_len max_seq_length max_seq_len seq_len seq_length sequence_length maxlen maxlength max_tokens
    block_size cutoff_len context_length model_max_length max_source_length
max_answer_length max_target_length target_length max_new_tokens answer_length
train train_file training_file train_data train_path training_data train_set train_csv train_dataset
validation validation_file valid valid_file dev dev_file eval_file val val_file test test_file eval_data
    validation_data val_data eval_dataset dev_data validation_path heldout
data data_dir dataset datasets data_path data_folder dataset_dir dataset_path data_files
hub dataset_name hf_dataset dataset_id hub_dataset
text text_column text_col input inputs text_field input_column sentence_column sentence text_key review content
text_pair text2 second_text pair sentence2 text_b
label label_column label_col target_column class label_field class_column label_key target y
labels classes class_names label_names label_list id2label label_names_list names
delimiter sep separator csv_delimiter csv_sep field_separator delim
encoding charset codec csv_encoding file_encoding
quotes quoting quotechar quote
train_rows max_train_samples train_samples num_train_samples limit n_train max_train_rows train_size subset
    max_samples
validation_rows max_eval_samples eval_samples max_eval_rows n_eval validation_samples max_val_samples
skip_bad_rows skip_errors ignore_errors skip_bad_lines on_bad_lines
stream streaming iterable
model base_model model_name model_name_or_path pretrained pretrained_model pretrained_model_name_or_path
    base_model_name base_model_name_or_path model_id checkpoint backbone model_path
base model base_model base_model_name_or_path model_name model_name_or_path
task task_name dataset_task problem glue_task
method peft_method peft adapter algorithm peft_type tuner adapter_type finetuning_type
output_dir out output o outdir output_path out_dir save_dir save_path save_to dest destination output_folder run_dir
    result_dir results_dir logdir log_dir logging_dir folder outfile out_file output_file output_directory
name run_name experiment experiment_name run exp_name project
seed random_seed random_state rng_seed manual_seed randomseed rng
dtype torch_dtype precision model_dtype weights_dtype
threads num_threads n_threads cpu_threads nthreads omp_num_threads torch_threads cores num_cores n_jobs jobs
quantization.bits bits load_in_4bit load_in_8bit load_in_4_bit load_in_8_bit four_bit quant quantize quantise nbits
    bit qlora
quantization.type bnb_4bit_quant_type quant_type
quantization.double double_quant bnb_4bit_use_double_quant use_double_quant
quantization.compute_dtype bnb_4bit_compute_dtype
cache layer_cache feature_cache activation_cache recycle caching
cache.memory cache_memory max_memory ram memory_limit
cache.disk cache_disk disk_limit
cache.folder cache_dir cache_folder
cache.dtype cache_dtype
max_skipped_steps skip_nan max_nan_steps skip_nonfinite
overwrite force overwrite_output_dir replace f
resume resume_from_checkpoint continue restart resume_from
trials n_trials num_trials budget
minutes timeout max_minutes time_limit
"""


def folded(name: str) -> str:
    """A name without what does not matter in it: case, dashes for underscores, the dashes of an option."""
    return name.strip().lower().lstrip("-").replace("-", "_")


@functools.cache
def _groups() -> dict[str, list[tuple[str, ...]]]:
    """The groups that a name is in."""
    groups: dict[str, list[tuple[str, ...]]] = {}
    for line in _GROUPS.replace("\n    ", " ").split("\n"):
        names = tuple(line.split())
        for name in dict.fromkeys(names):
            groups.setdefault(name, []).append(names)
    return groups


def synonym(name: str, allowed: Iterable[str]) -> str | None:
    """The first of the allowed names that stands for the same thing, or None.

    Of names with dots the last part counts, and those of the same block come first.

    >>> synonym("lr", ["method.r", "training.learning_rate"]), synonym("--rank", ["r", "lora_alpha"])
    ('training.learning_rate', 'r')
    """
    options = {folded(option): option for option in allowed}
    block, _, leaf = folded(name).rpartition(".")
    for group in _groups().get(leaf, []):
        for word in group:
            fitting = [option for option in options if option == word or option.endswith("." + word)]
            if fitting:
                return options[next((o for o in fitting if o.rpartition(".")[0] == block), fitting[0])]
    return None


def nearest(name: str, allowed: Iterable[str]) -> str | None:
    """The allowed name that is spelled most like ``name`` (ignoring case, and ``-`` for ``_``), or None. Of names with
    an owner, ``meta-llama/Llama-2-7b-hf``, the owner may be left out.

    >>> nearest("aflroa", ["lora", "aflora"]), nearest("llama-2-7b", ["meta-llama/Llama-2-7b-hf", "yahma/llama-7b-hf"])
    ('aflora', 'meta-llama/Llama-2-7b-hf')
    """
    options = {folded(option): option for option in allowed}
    if "/" not in name:
        options = {folded(option.rpartition("/")[2]): option for option in options.values()} | options
    hits = difflib.get_close_matches(folded(name), list(options), n=1, cutoff=0.5)
    return options[hits[0]] if hits else None


def meant(name: str, allowed: Iterable[str]) -> str | None:
    """The allowed name that stands for the same thing as ``name``, else the one that is spelled most like it, or None.

    >>> meant("batch-size", ["seed", "per_device_train_batch_size"]), meant("sead", ["seed"])
    ('per_device_train_batch_size', 'seed')
    """
    options = {folded(option): option for option in allowed}
    exact = options.get(folded(name))
    return exact or synonym(name, [o for o in options.values() if "." not in o]) or nearest(name, options.values())


def nearest_setting(name: str, settings: Iterable[str]) -> str | None:
    """The setting that is meant by a name that there is not, of settings by their dotted names.

    In order: the same name in another block, another name of the same thing, one that is spelled alike.

    >>> known = ["seed", "method.r", "training.learning_rate", "training.seed"]
    >>> [nearest_setting(name, known) for name in ("lr", "method.learning_rate", "training.learning_rat", "zzz")]
    ['training.learning_rate', 'training.learning_rate', 'training.learning_rate', None]
    """
    options = {folded(option): option for option in settings}
    wanted = folded(name)
    block, _, leaf = wanted.rpartition(".")
    if wanted in options:
        return options[wanted]
    elsewhere = next((option for option in options if option.rpartition(".")[2] == leaf), None)
    if elsewhere is not None:
        return options[elsewhere]
    if known := synonym(name, options.values()):
        return known
    best = max(options, key=lambda option: _likeness(block, leaf, option), default=None)
    if best is not None and _likeness(block, leaf, best) >= 0.6:
        return options[best]
    return misspelt(leaf, options.values()) or nearest(name, options.values())


def misspelt(name: str, settings: Iterable[str]) -> str | None:
    """The setting whose synonym a name is with a letter wrong, such as ``epohs``."""
    for word in difflib.get_close_matches(folded(name), list(_groups()), n=5, cutoff=0.8):
        if known := synonym(word, settings):
            return known
    return None


def _likeness(block: str, leaf: str, option: str) -> float:
    """How much alike two settings are spelled, 0 to 1: their last parts, then their blocks."""
    place, _, name = option.rpartition(".")
    last = difflib.SequenceMatcher(None, leaf, name).ratio()
    return 0.85 * last + 0.15 * difflib.SequenceMatcher(None, block, place).ratio()
