"""What pyrovae takes from private modules of torch is still there; and what happens without it.

If a test of the first kind fails after an upgrade of torch, its message says what changed. Results
stay right all the same: the tests of the second kind show the slower path.
"""

import re
import subprocess
import sys
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx
from torch.optim import Adam

import pyrovae
from pyrovae import VAE, cli
from pyrovae.infer import ELBO, SVI, private_torch
from pyrovae.infer.compiler import onednn, strides
from pyrovae.infer.compiler.direct_call import DirectCall
from pyrovae.infer.private_torch import (
    can_skip_updates,
    compile_graph,
    global_module_hooks,
    has_onednn_linear,
    is_operator,
    is_recording,
    is_view,
    lower_to_onednn,
    not_recording,
    observe_graph_calls,
    onednn_linear,
    recording_quickly,
    returns_new_tensors,
    skipping_update,
    written_nodes,
)

X = torch.arange(6.0).reshape(2, 3)


def trace(function: Callable[..., Any], *inputs: Tensor) -> GraphModule:
    return make_fx(function, tracing_mode="fake", _allow_non_fake_inputs=True)(*inputs)


def fails(what: str) -> str:
    return f"torch {torch.__version__} (tested: {private_torch.TESTED_VERSIONS}) {what}"


def test_the_compiler_takes_a_graph_and_example_inputs() -> None:
    try:
        with torch.no_grad():
            run = compile_graph(trace(lambda x: [x + 1], X), [X], cpp_wrapper=False)
            (result,) = run(X)
    except Exception as error:
        pytest.fail(
            fails(
                "no longer compiles by torch._inductor.standalone_compile(graph, inputs, "
                f"dynamic_shapes=..., options=...): {type(error).__name__}: {error}. Recorded "
                "steps run uncompiled until private_torch.compile_graph is mended"
            )
        )
    assert torch.equal(result, X + 1)


def test_calls_of_compiled_graphs_can_be_observed() -> None:
    with torch.no_grad():
        run = compile_graph(trace(lambda x: [x + 1], X), [X], cpp_wrapper=False)
        with observe_graph_calls() as calls:
            run(X)
    assert len(calls) == 1, fails(
        "no longer calls compiled graphs by CompiledFxGraph.__call__ with current_callable. "
        "Compiled steps pay for torch's wrappers until private_torch.observe_graph_calls is mended"
    )
    assert torch.equal(calls[0].function([X])[0], X + 1)


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="needs oneDNN")
def test_onednn_multiplies() -> None:
    assert has_onednn_linear(), fails(
        "no longer has torch.ops.mkldnn._linear_pointwise. Products are left to its BLAS until "
        "private_torch.onednn_linear is mended"
    )
    weight, bias = torch.randn(4, 3), torch.randn(4)
    for b in (bias, None):
        expected = torch.nn.functional.linear(X, weight, b)
        torch.testing.assert_close(onednn_linear(X, weight, b), expected)


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="needs oneDNN")
def test_inductor_calls_onednn_itself() -> None:
    try:
        from torch._inductor.ir import FixedLayout, TensorBox  # noqa: F401
        from torch._inductor.lowering import lowerings
        from torch._inductor.mkldnn_ir import LinearUnary, _create_output_node  # noqa: F401
    except ImportError as error:
        pytest.fail(
            fails(
                f"moved a class by which inductor calls oneDNN ({error}). Such products pay for a "
                "call from Python until private_torch.lower_to_onednn is mended"
            )
        )
    onednn._lower()
    assert torch.ops.pyrovae.linear.default in lowerings


def test_operators_say_what_they_write_to() -> None:
    graph = trace(lambda x, y: [x.clone().add_(y)], X, X)
    written = {node: written_nodes(node) for node in graph.graph.nodes}
    in_place = [node for node in graph.graph.nodes if "add_" in str(node.target)]
    assert len(in_place) == 1
    assert written[in_place[0]] == [in_place[0].args[0]], fails(
        "no longer says by operator._schema.arguments[i].alias_info.is_write what an operator "
        "writes to. Steps that write to buffers cannot be recorded until "
        "private_torch.written_nodes is mended"
    )
    assert not any(found for node, found in written.items() if node is not in_place[0])
    assert is_operator(in_place[0].target)
    assert not is_operator(len)


def test_operators_say_whether_they_are_views() -> None:
    graph = trace(lambda x: [x.t(), x.unbind()[1], x + 1, x.clone().add_(1)], X)
    views = {node.name for node in graph.graph.nodes if is_view(node)}
    aten = torch.ops.aten
    names = {aten.add.Tensor: True, aten.add_.Tensor: False, aten.t.default: False}
    message = fails(
        "no longer says by operator._schema.arguments[i].alias_info what operators share with "
        "their arguments. Recorded steps may miss a write to a tensor until private_torch.is_view "
        "and returns_new_tensors are mended"
    )
    assert views == {"t", "unbind", "getitem", "getitem_1"}, message
    assert {name: returns_new_tensors(name) for name in names} == names, message


def test_recording_can_be_asked_for_and_suspended() -> None:
    seen = []

    def program(x: Tensor) -> Tensor:
        seen.append(is_recording())
        with not_recording():
            seen.append(is_recording())
            seen.append(bool((x.detach() * 2).sum() == 30))
        return x + 1

    graph = make_fx(program)(X)
    assert seen == [True, False, True], fails(
        "no longer leaves make_fx by torch.utils._python_dispatch._disable_current_modes. Steps "
        "that read values cannot be recorded until private_torch.not_recording is mended"
    )
    assert "mul" not in graph.code
    assert not is_recording()


def test_recording_makes_no_fake_mode_for_each_result(monkeypatch: pytest.MonkeyPatch) -> None:
    from torch._subclasses import fake_tensor

    made = []
    init = fake_tensor.FakeTensorMode.__init__

    def count(self: Any, *args: Any, **kwargs: Any) -> None:
        made.append(1)
        init(self, *args, **kwargs)

    monkeypatch.setattr(fake_tensor.FakeTensorMode, "__init__", count)
    with recording_quickly():
        graph = make_fx(lambda x: (x + 1).exp().sin().cos())(X)
    assert len(made) == 1, fails(
        "makes a FakeTensorMode for each result that make_fx records, in spite of a "
        "TracingContext. Recording takes twice as long until private_torch.recording_quickly is "
        "mended"
    )
    torch.testing.assert_close(graph(X), (X + 1).exp().sin().cos(), rtol=0, atol=0)


def test_hooks_of_all_modules_are_found() -> None:
    seen: list[Any] = []
    handle = torch.nn.modules.module.register_module_forward_hook(lambda *_: seen.append(1))
    try:
        found = sum(len(hooks) for hooks in global_module_hooks())
    finally:
        handle.remove()
    assert found == 1, fails(
        "keeps the hooks of all modules elsewhere than in "
        "torch.nn.modules.module._global_forward_hooks. Steps recorded before such a hook is set "
        "are found wrong by comparison alone, until private_torch.global_module_hooks is mended"
    )


def test_a_copy_with_the_strides_of_eager_mode_can_be_lowered() -> None:
    from torch._inductor.lowering import lowerings

    strides._lower()
    assert torch.ops.pyrovae.stored_copy.default in lowerings, fails(
        "no longer takes lowerings by torch._inductor.lowering.register_lowering. Steps with a "
        "transform run uncompiled until private_torch.lower_to_stored_copy is mended"
    )


@pytest.mark.parametrize("skipped", [False, True])
def test_fused_adam_skips_an_update_where_it_is_told_so(skipped: bool) -> None:
    parameter = torch.nn.Parameter(torch.ones(3))
    adam = Adam([parameter], lr=0.1, fused=True)
    assert can_skip_updates(adam), fails(
        "no longer marks fused optimisers by _step_supports_amp_scaling. Each step then waits for "
        "the device until private_torch.can_skip_updates is mended"
    )
    assert not can_skip_updates(Adam([parameter], fused=False))
    assert not can_skip_updates(torch.optim.SGD([parameter], fused=True))
    parameter.grad = torch.ones(3)
    with skipping_update(adam, torch.tensor(skipped)):
        adam.step()
    assert torch.equal(parameter.detach(), torch.ones(3)) == skipped, fails(
        "no longer reads found_inf in fused Adam: updates that are not finite would be made. Let "
        "private_torch.can_skip_updates return False"
    )
    assert not hasattr(adam, "found_inf")


def test_a_schedule_does_not_warn_after_a_compiled_update() -> None:
    parameter = torch.nn.Parameter(torch.ones(3))
    adam = Adam([parameter])
    schedule = torch.optim.lr_scheduler.LinearLR(adam)
    private_torch.mark_as_stepped(adam)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            schedule.step()
        except UserWarning as warning:
            pytest.fail(
                fails(f"no longer counts steps by _opt_called: {warning}. Nothing else changes")
            )


def train(compile: bool) -> tuple[list[Tensor], SVI]:
    """Parameters after three steps of a VAE whose products are large enough for oneDNN."""
    torch.manual_seed(0)
    vae = VAE((64,), 4, "Normal")
    svi = SVI(vae.model, vae.guide, partial(Adam, lr=1e-2, fused=True), ELBO(), compile=compile)
    x = torch.randn(256, 64)
    for _ in range(3):
        svi.step(x)
    return [p.detach().clone() for p in vae.parameters()], svi


def remove_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr("torch._inductor.standalone_compile")


def remove_graph_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch._inductor.output_code", None)


def remove_onednn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onednn, "has_onednn_linear", lambda: False)


def remove_lowering(monkeypatch: pytest.MonkeyPatch) -> None:
    from torch._inductor.lowering import lowerings

    monkeypatch.delitem(lowerings, torch.ops.pyrovae.linear.default, raising=False)
    monkeypatch.setitem(sys.modules, "torch._inductor.mkldnn_ir", None)
    monkeypatch.setattr(onednn, "_lower", lambda: lower_to_onednn(None))


def remove_skipping(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pyrovae.infer.svi.optimisation.can_skip_updates", lambda _: False)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("remove", "num_graphs"),
    [
        (remove_compiler, (1, 0)),
        (remove_graph_calls, (1, 1)),
        (remove_onednn, (1, 1)),
        (remove_lowering, (1, 1)),
        (remove_skipping, (1, 1)),
    ],
)
def test_without_it_the_results_are_the_same(
    remove: Callable[[pytest.MonkeyPatch], None],
    num_graphs: tuple[int, int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    expected, _ = train(compile=False)
    remove(monkeypatch)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found, svi = train(compile=True)
    assert svi.num_graphs == num_graphs
    says_so = any("runs uncompiled" in str(warning.message) for warning in caught)
    assert says_so == (num_graphs == (1, 0))
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_without_direct_calls_the_wrappers_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    with torch.no_grad():
        run = compile_graph(trace(lambda x: [x + 1], X), [X], cpp_wrapper=False)
    remove_graph_calls(monkeypatch)
    call = DirectCall(run)
    for x in (X, X + 1):
        assert torch.equal(call(x)[0], x + 1)
    assert not call.is_direct


def test_no_other_file_uses_private_modules_of_torch() -> None:
    package = Path(pyrovae.__file__).parent
    private = re.compile(r"torch\._[a-z]\w*|torch\.\w+\._[a-z]\w*|_schema\b|found_inf|_opt_called")
    found = [
        f"{path.relative_to(package)}: {name}"
        for path in package.rglob("*.py")
        for name in private.findall(path.read_text())
        if path.name != "private_torch.py"
    ]
    assert found == []


@pytest.mark.slow
@pytest.mark.parametrize(
    "statement",
    [
        "import pyrovae; from pyrovae import VAE",
        "from pyrovae import SVI, evaluate, fit, importance_sample, load",
        "from pyrovae.cli import main; main(['sample', 'run'])",
    ],
)
def test_nothing_but_compiling_imports_the_compiler(statement: str, tmp_path: Path) -> None:
    """Apart from torch's optimisers, which import it themselves as they are made."""
    if "run" in statement:
        cli.main(["train", "--epochs", "1", "--output", str(tmp_path / "run")])
    check = (
        "import sys; found = [m for m in sys.modules if m.startswith(('torch._inductor', "
        "'torch._dynamo'))]; assert not found, found[:3]"
    )
    command = [sys.executable, "-c", f"{statement}\n{check}"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
