"""SolverStats of a solve, and of one that raised."""

from __future__ import annotations

from typing import Any

from dnls_ros.io.compose import Composer
from dnls_ros.runtime.types import Event, Status
from dnls_ros.window.config import EstimatorConfig
from dnls_ros.window.results import StepResult
from dnls_ros.window.solve_report import FactorCost, SolveReport, Termination

NAN = float("nan")
EXCEPTION_CODE = "solver.exception"
"""Code of the event by which a session says that a solve raised."""
_NOTHING = SolveReport(Termination.EXCEPTION, 0, NAN, NAN, NAN, 0, "", "", NAN, NAN)


def solver_stats(
    compose: Composer, result: StepResult, config: EstimatorConfig, status: Status | None
) -> Any:
    """Make a dnls_ros/SolverStats; ``status`` gives the backlog and the skipped cycles."""
    report = result.report or _NOTHING
    seconds, total = result.seconds, sum(result.seconds.values())
    covariance = seconds.get("covariance", 0.0)
    return _message(
        compose,
        config,
        status,
        header=compose.header(result.stamp, config.world_frame),
        window_id=result.window_id,
        termination=int(report.termination),
        accepted=result.accepted,
        message=result.status,
        iterations=result.iterations,
        steps_accepted=report.steps_accepted,
        cost_initial=result.cost_initial,
        cost_final=result.cost_final,
        cost_prior=report.cost_prior,
        lambda_final=report.damping,
        gradient_inf=report.largest_gradient,
        step_inf=report.largest_step,
        states=result.states,
        dof=report.dof,
        residuals=report.residuals,
        factors=result.factors,
        factor_nnz=report.factor_nnz,
        min_diag_ratio=report.min_diag_ratio,
        weakest=report.weakest,
        t_queue=seconds.get("queue", NAN),
        t_build=seconds.get("build", 0.0) + seconds.get("gate", 0.0),
        t_linearize=report.linearize,
        t_factorize=report.factorize,
        t_marginalize=seconds.get("marginalize", 0.0),
        t_covariance=covariance,
        t_total=total,
        deadline_missed=total > 1.0 / config.solver.rate,
        linear_solver=report.linear_solver,
        device=report.device,
        costs=[_cost(compose, cost) for cost in report.costs],
    )


def failed_solve(
    compose: Composer, event: Event, config: EstimatorConfig, status: Status | None
) -> Any:
    """Make the dnls_ros/SolverStats of a solve that raised; what is not known is NaN or 0."""
    return _message(
        compose,
        config,
        status,
        header=compose.header(event.stamp, config.world_frame),
        window_id=0,
        termination=int(Termination.EXCEPTION),
        accepted=False,
        message=event.text,
        iterations=0,
        steps_accepted=0,
        cost_initial=NAN,
        cost_final=NAN,
        cost_prior=NAN,
        lambda_final=NAN,
        gradient_inf=NAN,
        step_inf=NAN,
        states=0,
        dof=0,
        residuals=0,
        factors=0,
        factor_nnz=0,
        min_diag_ratio=NAN,
        weakest="",
        t_queue=NAN,
        t_build=NAN,
        t_linearize=NAN,
        t_factorize=NAN,
        t_marginalize=NAN,
        t_covariance=NAN,
        t_total=NAN,
        deadline_missed=False,
        linear_solver="",
        device="",
        costs=[],
    )


def _message(
    compose: Composer, config: EstimatorConfig, status: Status | None, **fields: Any
) -> Any:
    """The fields that do not depend on the solve's end, and the others; a budget of 0 is none."""
    budget = 0.0 if config.deterministic else config.solver.time_budget
    return compose.find("dnls_ros/msg/SolverStats")(
        t_budget=budget,
        cycles_skipped=0 if status is None else status.cycles_skipped,
        backlog=0 if status is None else sum(sensor.waiting for sensor in status.sensors),
        gpu_memory=0,
        **fields,
    )


def _cost(compose: Composer, cost: FactorCost) -> Any:
    return compose.find("dnls_ros/msg/FactorCost")(
        type=cost.type,
        count=cost.count,
        dim=cost.dim,
        cost=cost.cost,
        mean_sq=cost.mean_sq,
        downweighted=cost.downweighted,
    )
